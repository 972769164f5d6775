"""Tables, figures and coloured text, from files only."""
