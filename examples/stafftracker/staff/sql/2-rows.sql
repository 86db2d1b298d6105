INSERT INTO staff (name, lastName, room, ipAddress) VALUES
  ('Anna', 'de Vries', 'A101', '10.20.1.11'),
  ('Bram', 'Jansen', 'A202', '10.20.1.12'),
  ('Chiara', 'Rossi', 'B101', '10.20.2.21'),
  ('Daan', 'Bakker', 'B201', '10.20.2.22'),
  ('Emre', 'Yılmaz', 'C102', '10.20.3.31'),
  ('Fatima', 'el Amrani', 'C202', '10.20.3.32'),
  ('Grace', 'O''Connor', 'D101', '10.20.4.41'),
  ('Hugo', 'Müller', 'E201', '10.20.5.51');
