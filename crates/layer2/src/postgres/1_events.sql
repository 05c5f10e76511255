-- An event store that relays share. Numbers that Rust has without a sign stand here with one; dates and
-- seqs are far below where that would matter.

-- One row. Who locks it is the one writer, so seqs become visible in their order, and who follows the
-- log never passes one by that is committed later.
CREATE TABLE store (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    next_seq bigint NOT NULL,
    arrived_last bigint NOT NULL
);
INSERT INTO store (next_seq, arrived_last) VALUES (0, 0);

-- What is held. The columns say what filters and rules look at; the packed event is the event.
CREATE TABLE events (
    seq bigint PRIMARY KEY,
    arrived bigint NOT NULL,
    id bytea NOT NULL UNIQUE,
    pubkey bytea NOT NULL,
    created_at bigint NOT NULL,
    kind integer NOT NULL,
    tags bigint[] NOT NULL,     -- the first 8 bytes of a hash of letter and value, each
    address bytea UNIQUE,       -- of replaceable and addressable events
    expires bigint,
    packed bytea NOT NULL
);
CREATE INDEX events_by_arrival ON events (arrived, seq);
CREATE INDEX events_by_date ON events (created_at DESC, id);
CREATE INDEX events_by_author ON events (pubkey, created_at DESC, id);
CREATE INDEX events_by_kind ON events (kind, created_at DESC, id);
CREATE INDEX events_by_author_and_kind ON events (pubkey, kind, created_at DESC, id);
CREATE INDEX events_by_tag ON events USING gin (tags);
CREATE INDEX events_by_expiry ON events (expires) WHERE expires IS NOT NULL;

-- Of the log, what is not an event: one was removed, or, without an id, everything was.
CREATE TABLE removals (
    seq bigint PRIMARY KEY,
    arrived bigint NOT NULL,
    id bytea,
    why text NOT NULL
);
CREATE INDEX removals_by_arrival ON removals (arrived, seq);

-- What keeps events out.
CREATE TABLE tombstones (digest bytea PRIMARY KEY);
CREATE TABLE address_tombstones (address bytea PRIMARY KEY, until bigint NOT NULL);
CREATE TABLE vanished (pubkey bytea PRIMARY KEY, until bigint NOT NULL);
