"""The application behind `w2w demo`; it uses the library by its public names only."""
