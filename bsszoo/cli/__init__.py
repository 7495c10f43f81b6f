"""The command line: one file per noun. Nothing else imports it."""
