-- The way in: what outbox_publish() takes, refuses and stores.
CREATE EXTENSION outbox;
