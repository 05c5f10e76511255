"""What a client written with nostr-sdk for Python sees of a relay: python client.py ws://HOST:PORT
Says a line for each thing that worked; ends with an error at the first that did not."""

import asyncio
import sys
from datetime import timedelta

from nostr_sdk import (
    Client,
    ClientBuilder,
    EventBuilder,
    Filter,
    Keys,
    Kind,
    NegentropyItem,
    RelayUrl,
    ReqTarget,
    SignerAuthenticator,
    SyncOptions,
    Tag,
    Timestamp,
    uniffi_set_event_loop,
)

PATIENCE = timedelta(seconds=30)
URL = RelayUrl.parse(sys.argv[1])


def sign(keys, kind, created_at, content, tags=()):
    builder = EventBuilder(Kind(kind), content).tags([Tag.parse(list(tag)) for tag in tags])
    return builder.custom_created_at(Timestamp.from_secs(created_at)).finalize(keys)


def note(keys, created_at):
    return sign(keys, 1, created_at, f"note of {created_at}", [("t", "water")])


async def connected(builder):
    client = builder.build()
    await client.add_relay(URL)
    await client.connect(and_wait=PATIENCE)
    return client


async def publish(client, event):
    """The reason if the relay refuses."""
    output = await client.send_event(event, ok_timeout=PATIENCE)
    return output.failed.get(URL)


async def query(client, filter):
    events = await client.fetch_events(ReqTarget.single(URL, [filter]), timeout=PATIENCE)
    return [event.id() for event in events]


async def main():
    # The library signs challenges on threads of its own.
    uniffi_set_event_loop(asyncio.get_running_loop())
    keys, stranger = Keys.generate(), Keys.generate()
    client = await connected(ClientBuilder())
    notes = [note(keys, at) for at in (1000, 1001, 1002, 1003)]
    for event in notes:
        assert await publish(client, event) is None
    deletion = sign(keys, 5, 2000, "", [("e", notes[0].id().to_hex())])
    assert await publish(client, deletion) is None
    refusal = await publish(client, notes[0])
    assert refusal.startswith("blocked: "), refusal
    print("publishes")

    mine = Filter().author(keys.public_key()).kind(Kind(1))
    left = [event.id() for event in reversed(notes[1:])]
    assert await query(client, mine) == left
    assert await query(client, mine.hashtag("water").limit(1)) == left[:1]
    print("queries")

    live = note(keys, 3000)
    publisher = await connected(ClientBuilder())
    heard = client.notifications()
    await client.subscribe(ReqTarget.single(URL, [mine.limit(0)]))
    await until(heard, lambda it: it.is_message() and is_eose(it.message))
    assert await publish(publisher, live) is None
    await until(heard, lambda it: it.is_new_event() and it.event.id() == live.id())
    print("subscribes")

    wrap = sign(stranger, 1059, 1000, "sealed", [("p", keys.public_key().to_hex())])
    assert await publish(client, wrap) is None
    inbox = Filter().kind(Kind(1059)).pubkey(keys.public_key())
    known = await connected(ClientBuilder().authenticator(SignerAuthenticator(keys)))
    assert await query(known, inbox) == [wrap.id()]
    print("authenticates")

    only_here = note(keys, 1500)
    items = [NegentropyItem(id=it.id(), timestamp=it.created_at()) for it in (notes[1], only_here)]
    relay = await client.relay(URL)
    lacking = await relay.sync(mine, items=items, opts=SyncOptions().dry_run())
    assert set(lacking.local) == {only_here.id()}, lacking
    assert set(lacking.remote) == {it.id() for it in (notes[2], notes[3], live)}, lacking
    print("reconciles")


def is_eose(message):
    return message.as_enum().is_end_of_stored_events()


async def until(heard, is_wanted):
    async def listen():
        while not is_wanted(await heard.next()):
            pass

    await asyncio.wait_for(listen(), PATIENCE.seconds)


asyncio.run(main())
