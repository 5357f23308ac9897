"""Many variants: the zoo of published ones, enumerations, families, and differences of two."""
