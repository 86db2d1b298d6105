INSERT INTO zipcodes (zipcode, street, city) VALUES
  ('1011AB', 'Kanaalkade 12', 'Amsterdam'),
  ('2628CD', 'Mekelweg 4', 'Delft'),
  ('3511EF', 'Oudegracht 158', 'Utrecht'),
  ('5611GH', 'Stationsplein 7', 'Eindhoven'),
  ('9712JK', 'Grote Markt 21', 'Groningen');
