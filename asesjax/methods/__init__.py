"""What each method supplies: roles, examples and a decode plan."""
