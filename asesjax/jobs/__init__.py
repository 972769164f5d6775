"""The work of each stage: reads files of the workdir, writes others, and can be repeated."""
