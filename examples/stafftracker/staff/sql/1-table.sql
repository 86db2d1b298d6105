-- The people, and the room and computer each of them has. AUTOINCREMENT: the
-- id of somebody who left is never given to somebody else.
CREATE TABLE staff (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  name      TEXT NOT NULL CHECK (name <> ''),
  lastName  TEXT NOT NULL CHECK (lastName <> ''),
  room      TEXT NOT NULL,
  ipAddress TEXT NOT NULL
) STRICT;
