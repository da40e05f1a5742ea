"""The application behind `w2w demo`, which uses public names of the library only."""
