-- wait for no lock longer than a minute
SET LOCK_TIMEOUT 60000;

-- fail as a whole
SET XACT_ABORT ON;

-- one change of a product at a time
SET NOCOUNT ON; DECLARE @result INT; EXEC @result = sp_getapplock @Resource = ?, @LockMode = 'Exclusive', @LockOwner = ?, @LockTimeout = ?; SELECT @result; SET NOCOUNT OFF;

-- create shop_features
CREATE TABLE [shop_features] (
	[region] NVARCHAR(225) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[number] BIGINT NOT NULL,
	[event_day] DATE NOT NULL,
	[text] NVARCHAR(max) NULL,
	[small] INTEGER NULL,
	[big] BIGINT NULL,
	[flag] BIT NULL,
	[since] DATE NULL,
	[at] DATETIME2(6) NULL,
	[spend "net" 100%] FLOAT(53) NULL,
	[mrds_version] BIGINT NOT NULL,
	[published_at] DATETIME2(6) NOT NULL DEFAULT sysutcdatetime(),
	PRIMARY KEY ([region], [number])
);

-- create shop_features_days
CREATE TABLE [shop_features_days] (
	[event_day] DATE NOT NULL,
	[mrds_version] BIGINT NOT NULL,
	[publication] BIGINT NOT NULL,
	[published_at] DATETIME2(6) NOT NULL DEFAULT sysutcdatetime(),
	PRIMARY KEY ([event_day])
);

-- create shop_features_forgotten
CREATE TABLE [shop_features_forgotten] (
	[region] NVARCHAR(225) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[number] BIGINT NOT NULL,
	[reason] NVARCHAR(max) NOT NULL,
	[forgotten_at] DATETIME2(6) NOT NULL DEFAULT sysutcdatetime(),
	PRIMARY KEY ([region], [number])
);

-- create shop_features_staging_0123456789ab
CREATE TABLE [shop_features_staging_0123456789ab] (
	[region] NVARCHAR(225) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[number] BIGINT NOT NULL,
	[event_day] DATE NOT NULL,
	[text] NVARCHAR(max) NULL,
	[small] INTEGER NULL,
	[big] BIGINT NULL,
	[flag] BIT NULL,
	[since] DATE NULL,
	[at] DATETIME2(6) NULL,
	[spend "net" 100%] FLOAT(53) NULL
);

-- create shop_features_gone_0123456789ab
CREATE TABLE [shop_features_gone_0123456789ab] (
	[region] NVARCHAR(225) COLLATE Latin1_General_100_BIN2 NOT NULL,
	[number] BIGINT NOT NULL,
	[event_day] DATE NOT NULL,
	[row_number] BIGINT NOT NULL
);

-- the days published before
SELECT [shop_features_days].[event_day], [shop_features_days].[mrds_version]
FROM [shop_features_days];

-- find stored rows that left their day
INSERT INTO [shop_features_gone_0123456789ab] ([region], [number], [event_day], [row_number]) SELECT [shop_features].[region], [shop_features].[number], [shop_features].[event_day], row_number() OVER (ORDER BY [shop_features].[region], [shop_features].[number], [shop_features].[event_day]) AS anon_1
FROM [shop_features]
WHERE ([shop_features].[event_day] BETWEEN ? AND ? OR [shop_features].[event_day] BETWEEN ? AND ?) AND [shop_features].[mrds_version] <= ? AND NOT (EXISTS (SELECT *
FROM [shop_features_staging_0123456789ab]
WHERE [shop_features_staging_0123456789ab].[region] = [shop_features].[region] AND [shop_features_staging_0123456789ab].[number] = [shop_features].[number] AND [shop_features_staging_0123456789ab].[event_day] = [shop_features].[event_day]));

-- read them
SELECT [shop_features_gone_0123456789ab].[region], [shop_features_gone_0123456789ab].[number], [shop_features_gone_0123456789ab].[event_day]
FROM [shop_features_gone_0123456789ab]
WHERE [shop_features_gone_0123456789ab].[row_number] BETWEEN ? AND ?;

-- of a fallback and a staged row keep the newer
DELETE FROM [shop_features_staging_0123456789ab] WHERE EXISTS (SELECT *
FROM [shop_features_staging_0123456789ab] AS newer
WHERE newer.[region] = [shop_features_staging_0123456789ab].[region] AND newer.[number] = [shop_features_staging_0123456789ab].[number] AND newer.[event_day] > [shop_features_staging_0123456789ab].[event_day]);

-- nobody else changed these days since
SELECT count(*) AS count_1
FROM [shop_features]
WHERE ([shop_features].[event_day] BETWEEN ? AND ? OR [shop_features].[event_day] BETWEEN ? AND ?) AND [shop_features].[mrds_version] <= ? AND NOT (EXISTS (SELECT *
FROM [shop_features_staging_0123456789ab]
WHERE [shop_features_staging_0123456789ab].[region] = [shop_features].[region] AND [shop_features_staging_0123456789ab].[number] = [shop_features].[number] AND [shop_features_staging_0123456789ab].[event_day] = [shop_features].[event_day])) AND NOT (EXISTS (SELECT *
FROM [shop_features_gone_0123456789ab]
WHERE [shop_features_gone_0123456789ab].[region] = [shop_features].[region] AND [shop_features_gone_0123456789ab].[number] = [shop_features].[number] AND [shop_features_gone_0123456789ab].[event_day] = [shop_features].[event_day]));

-- withdraw
DELETE FROM [shop_features] WHERE ([shop_features].[event_day] BETWEEN ? AND ? OR [shop_features].[event_day] BETWEEN ? AND ?) AND [shop_features].[mrds_version] <= ? AND NOT (EXISTS (SELECT *
FROM [shop_features_staging_0123456789ab]
WHERE [shop_features_staging_0123456789ab].[region] = [shop_features].[region] AND [shop_features_staging_0123456789ab].[number] = [shop_features].[number] AND [shop_features_staging_0123456789ab].[event_day] = [shop_features].[event_day]));

-- staged entities to be forgotten
SELECT count(*) AS count_1
FROM [shop_features_staging_0123456789ab]
WHERE EXISTS (SELECT *
FROM [shop_features_forgotten]
WHERE [shop_features_forgotten].[region] = [shop_features_staging_0123456789ab].[region] AND [shop_features_forgotten].[number] = [shop_features_staging_0123456789ab].[number]);

-- merge
MERGE INTO [shop_features] WITH (HOLDLOCK) AS target
USING (SELECT [shop_features_staging_0123456789ab].[region], [shop_features_staging_0123456789ab].[number], [shop_features_staging_0123456789ab].[event_day], [shop_features_staging_0123456789ab].[text], [shop_features_staging_0123456789ab].[small], [shop_features_staging_0123456789ab].[big], [shop_features_staging_0123456789ab].[flag], [shop_features_staging_0123456789ab].[since], [shop_features_staging_0123456789ab].[at], [shop_features_staging_0123456789ab].[spend "net" 100%], ? AS mrds_version
FROM [shop_features_staging_0123456789ab]
WHERE NOT (EXISTS (SELECT *
FROM [shop_features_forgotten]
WHERE [shop_features_forgotten].[region] = [shop_features_staging_0123456789ab].[region] AND [shop_features_forgotten].[number] = [shop_features_staging_0123456789ab].[number]))) AS source
ON target.[region] = source.[region] AND target.[number] = source.[number]
WHEN MATCHED AND (source.[event_day] > target.[event_day] OR (source.[event_day] = target.[event_day] AND source.[mrds_version] >= target.[mrds_version]))
THEN UPDATE SET target.[event_day] = source.[event_day], target.[text] = source.[text], target.[small] = source.[small], target.[big] = source.[big], target.[flag] = source.[flag], target.[since] = source.[since], target.[at] = source.[at], target.[spend "net" 100%] = source.[spend "net" 100%], target.[mrds_version] = source.[mrds_version], target.[dropped feature] = NULL, target.[published_at] = SYSUTCDATETIME()
WHEN NOT MATCHED BY TARGET THEN INSERT ([region], [number], [event_day], [text], [small], [big], [flag], [since], [at], [spend "net" 100%], [mrds_version])
VALUES (source.[region], source.[number], source.[event_day], source.[text], source.[small], source.[big], source.[flag], source.[since], source.[at], source.[spend "net" 100%], source.[mrds_version]);

-- staged entities that arrived
SELECT count(*) AS count_1
FROM [shop_features_staging_0123456789ab] JOIN [shop_features] ON [shop_features].[region] = [shop_features_staging_0123456789ab].[region] AND [shop_features].[number] = [shop_features_staging_0123456789ab].[number]
WHERE [shop_features].[event_day] > [shop_features_staging_0123456789ab].[event_day] OR [shop_features].[event_day] = [shop_features_staging_0123456789ab].[event_day] AND [shop_features].[mrds_version] >= ?;

-- the last publication
SELECT max([shop_features_days].[publication]) AS max_1
FROM [shop_features_days];

-- forget what is known of the days
DELETE FROM [shop_features_days] WHERE [shop_features_days].[event_day] BETWEEN ? AND ? OR [shop_features_days].[event_day] BETWEEN ? AND ?;

-- record the days
INSERT INTO [shop_features_days] ([event_day], [mrds_version], [publication]) VALUES (?, ?, ?);

-- count and newest day
SELECT count(*) AS count_1, max([shop_features].[event_day]) AS max_1
FROM [shop_features];

-- look up a key of two columns
SELECT [shop_features].[region], [shop_features].[number], [shop_features].[event_day], [shop_features].[text], [shop_features].[small], [shop_features].[big], [shop_features].[flag], [shop_features].[since], [shop_features].[at], [shop_features].[spend "net" 100%], [shop_features].[mrds_version], [shop_features].[published_at]
FROM [shop_features]
WHERE [shop_features].[region] = ? AND [shop_features].[number] = ?;

-- look up two keys of two columns
SELECT [shop_features].[region], [shop_features].[number], [shop_features].[event_day], [shop_features].[text], [shop_features].[small], [shop_features].[big], [shop_features].[flag], [shop_features].[since], [shop_features].[at], [shop_features].[spend "net" 100%], [shop_features].[mrds_version], [shop_features].[published_at]
FROM [shop_features]
WHERE [shop_features].[region] = ? AND [shop_features].[number] = ? OR [shop_features].[region] = ? AND [shop_features].[number] = ?;

-- look up a key of one column
SELECT [shop_features].[customer], [shop_features].[event_day], [shop_features].[spend], [shop_features].[pages], [shop_features].[channel], [shop_features].[visit], [shop_features].[mrds_version], [shop_features].[published_at]
FROM [shop_features]
WHERE [shop_features].[customer] = ?;

-- look up two keys of one column
SELECT [shop_features].[customer], [shop_features].[event_day], [shop_features].[spend], [shop_features].[pages], [shop_features].[channel], [shop_features].[visit], [shop_features].[mrds_version], [shop_features].[published_at]
FROM [shop_features]
WHERE [shop_features].[customer] IN (?, ?);

-- the same before there is a column for visits
SELECT [shop_features].[customer], [shop_features].[event_day], [shop_features].[spend], [shop_features].[pages], [shop_features].[channel], NULL AS [visit], [shop_features].[mrds_version], [shop_features].[published_at]
FROM [shop_features]
WHERE [shop_features].[customer] IN (?, ?);

-- entities forgotten already
SELECT [shop_features_forgotten].[region], [shop_features_forgotten].[number]
FROM [shop_features_forgotten]
WHERE [shop_features_forgotten].[region] = ? AND [shop_features_forgotten].[number] = ? OR [shop_features_forgotten].[region] = ? AND [shop_features_forgotten].[number] = ?;

-- forget
INSERT INTO [shop_features_forgotten] ([region], [number], [reason]) VALUES (?, ?, ?), (?, ?, ?);

-- delete what is stored
DELETE FROM [shop_features] WHERE [shop_features].[region] = ? AND [shop_features].[number] = ? OR [shop_features].[region] = ? AND [shop_features].[number] = ?;

-- count the change
UPDATE [shop_features_days] SET [publication]=([shop_features_days].[publication] + ?) WHERE [shop_features_days].[publication] = (SELECT max(newest.[publication]) AS max_1
FROM [shop_features_days] AS newest);

-- unforget
DELETE FROM [shop_features_forgotten] WHERE [shop_features_forgotten].[region] = ? AND [shop_features_forgotten].[number] = ? OR [shop_features_forgotten].[region] = ? AND [shop_features_forgotten].[number] = ?;

