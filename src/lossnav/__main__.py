"""`python -m lossnav` is `lossnav`."""

from lossnav.cli import main

if __name__ == "__main__":
    main()
