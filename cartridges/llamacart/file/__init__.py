"""The cartridge file: its format, and how it is read, checked and written."""
