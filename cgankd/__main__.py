"""`python -m cgankd` is the `cgankd` command."""

if __name__ == "__main__":
    from pipelines.commands.app import main

    main()
