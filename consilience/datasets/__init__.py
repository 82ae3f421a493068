"""One loader per public format, each to the tables of `consilience.tables`; direction is turned to 1 = acceptable."""
