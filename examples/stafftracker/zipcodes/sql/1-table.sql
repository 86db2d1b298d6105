-- The street and city of a zip code.
CREATE TABLE zipcodes (
  zipcode TEXT PRIMARY KEY NOT NULL CHECK (zipcode <> ''),
  street  TEXT NOT NULL,
  city    TEXT NOT NULL
) STRICT;
