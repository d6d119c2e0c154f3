"""Write them."""

from website.measured.pages import write

if __name__ == "__main__":
    write()
