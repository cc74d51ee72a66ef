-- sqlite3 :memory: builds tables and indexes, joins, groups, changes and checks them.
PRAGMA cache_size = -16000;
CREATE TABLE item (id INTEGER PRIMARY KEY, client INTEGER, amount INTEGER, note TEXT);
WITH RECURSIVE counter(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM counter WHERE i < 1599999)
INSERT INTO item SELECT i, (i * 7919 + i / 13) % 100003, (i * 31337) % 10007,
  'note ' || ((i * 104729) % 999983) || ' of item ' || i FROM counter;
CREATE INDEX item_note ON item (note);
CREATE INDEX item_client ON item (client, amount);
SELECT count(*), sum(amount), min(note), max(note) FROM item;
SELECT client, count(*), sum(amount) FROM item GROUP BY client ORDER BY 3 DESC, 1 LIMIT 5;
UPDATE item SET amount = amount + 1, note = note || ' again' WHERE id % 101 = 0;
DELETE FROM item WHERE id % 103 = 3;
SELECT a.id, b.id FROM item a JOIN item b ON a.client = b.client AND a.amount < b.amount
  WHERE a.id % 4001 = 0 ORDER BY a.note, b.note LIMIT 5;
SELECT count(DISTINCT substr(note, 1, 9)), sum(length(note)) FROM item;
PRAGMA quick_check;
