"""What is compared, one file per case: each has ``run(options, folder)`` and answers a JSON object."""
