CREATE TABLE IF NOT EXISTS `main`.`ml-prod`.`shop_ards` (
  `visit` bigint NOT NULL,
  `day` date,
  `customer` string,
  `spend` double,
  `pages` int,
  `channel` string COMMENT 'one of web, app, other; other where nothing was delivered',
  `bought` int COMMENT 'The label; null while it has not come',
  `event_day` date NOT NULL COMMENT 'The business day the row belongs to',
  `label_known_on` date COMMENT 'The day the row\'s label arrived; null while it has none',
  CONSTRAINT `shop_ards_key` PRIMARY KEY (`visit`, `event_day` TIMESERIES)
)
USING DELTA
PARTITIONED BY (`event_day`)
COMMENT 'Analytics-ready data set: the typed, de-duplicated rows of the deliveries, one row per key. Does a customer buy?\nIt\'s \\ the day\'s visit that counts.';
COMMENT ON TABLE `main`.`ml-prod`.`shop_ards` IS 'Analytics-ready data set: the typed, de-duplicated rows of the deliveries, one row per key. Does a customer buy?\nIt\'s \\ the day\'s visit that counts.';
ALTER TABLE `main`.`ml-prod`.`shop_ards` SET TAGS ('product' = 'shop', 'data_set' = 'ards', 'owners' = 'shop@example.org');
ALTER TABLE `main`.`ml-prod`.`shop_ards` ALTER COLUMN `customer` SET TAGS ('role' = 'entity', 'sensitive' = 'true');
ALTER TABLE `main`.`ml-prod`.`shop_ards` ALTER COLUMN `spend` SET TAGS ('role' = 'feature');
ALTER TABLE `main`.`ml-prod`.`shop_ards` ALTER COLUMN `pages` SET TAGS ('role' = 'feature');
ALTER TABLE `main`.`ml-prod`.`shop_ards` ALTER COLUMN `channel` SET TAGS ('role' = 'feature');
ALTER TABLE `main`.`ml-prod`.`shop_ards` ALTER COLUMN `bought` SET TAGS ('role' = 'label');
CREATE TABLE IF NOT EXISTS `main`.`ml-prod`.`shop_mrds` (
  `customer` string NOT NULL,
  `event_day` date NOT NULL COMMENT 'The business day the row belongs to',
  `spend` double COMMENT 'sum of the day\'s rows',
  `pages` int COMMENT 'max of the day\'s rows',
  `channel` string COMMENT 'last of the day\'s rows; one of web, app, other; other where nothing was delivered',
  `visit` bigint COMMENT 'count of the day\'s rows',
  `bought` int COMMENT 'The label; null while it has not come; last of the day\'s rows',
  `label_known_on` date COMMENT 'The day the row\'s label arrived; null while it has none',
  CONSTRAINT `shop_mrds_key` PRIMARY KEY (`customer`, `event_day` TIMESERIES)
)
USING DELTA
PARTITIONED BY (`event_day`)
COMMENT 'Model-ready data set: one row per entity and event day; training and scoring both read it. Does a customer buy?\nIt\'s \\ the day\'s visit that counts.';
COMMENT ON TABLE `main`.`ml-prod`.`shop_mrds` IS 'Model-ready data set: one row per entity and event day; training and scoring both read it. Does a customer buy?\nIt\'s \\ the day\'s visit that counts.';
ALTER TABLE `main`.`ml-prod`.`shop_mrds` SET TAGS ('product' = 'shop', 'data_set' = 'mrds', 'owners' = 'shop@example.org');
ALTER TABLE `main`.`ml-prod`.`shop_mrds` ALTER COLUMN `customer` SET TAGS ('role' = 'entity', 'sensitive' = 'true');
ALTER TABLE `main`.`ml-prod`.`shop_mrds` ALTER COLUMN `spend` SET TAGS ('role' = 'feature');
ALTER TABLE `main`.`ml-prod`.`shop_mrds` ALTER COLUMN `pages` SET TAGS ('role' = 'feature');
ALTER TABLE `main`.`ml-prod`.`shop_mrds` ALTER COLUMN `channel` SET TAGS ('role' = 'feature');
ALTER TABLE `main`.`ml-prod`.`shop_mrds` ALTER COLUMN `bought` SET TAGS ('role' = 'label');
