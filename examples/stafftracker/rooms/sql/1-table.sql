-- Which zip code area a room lies in.
CREATE TABLE rooms (
  room    TEXT PRIMARY KEY NOT NULL CHECK (room <> ''),
  zipcode TEXT NOT NULL
) STRICT;
