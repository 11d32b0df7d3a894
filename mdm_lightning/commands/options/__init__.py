"""What is typed on a command line and what a configuration may hold, looked at before anything is done."""
