"""`python -m frontswap` is `frontswap`."""

from frontswap.cli import main

if __name__ == "__main__":
    main()
