"""The kinds of events, each with the MESSAGE_ID by which the journal knows it.

An id stays with its kind for ever: people search for it, and systemd/registryd.catalog explains it (journalctl -x).
"""

#: A log call names its kind (`extra={"event": "stalled"}`); this is the id that its entry gets.
MESSAGE_IDS = {
    "registered": "3ad53ee691a77cf36b420244f9bc8df0",
    "updated": "a3df3384aa7eb3a6b00f9a663479c799",
    "deregistered": "c9b8491f669fb48ef55b8651f8593c5d",
    "expired": "a5aaebc1e0d232fbd08ff21032f8242e",
    "started": "30ca939300767470f2bef6e062e90c56",
    "stopping": "3ee462029d9c4d39010166febe06f14f",
    "stopped": "532bc45e2c293202cc737ba05cec98d6",
    "cut_off": "3610ff2bd4e43aa418d966e614595446",
    "stalled": "c5328b093a535f3dd349a1d1ddde2217",
    "watchdog_starved": "214e4886ae0ca56830ea6cefab2666ff",
    "open_access": "8023516915e42a80fc2384322c66a786",
    "refused": "7fa99fe3d65843febbedc283aee547e2",
    "watcher_cut_off": "adf8ddb1950c03238bb62f5206b867ed",
    "too_many_connections": "e182a3dfed49d3fc52f7cbc086e375f7",
    "accept_queue_full": "6ff2e6dbc1ca405faa584b9d0acc32bb",
    "crowded": "e2d7d2e145fa4b829b25a1945ea762ed",
    "rate_limited": "aedf0ed8bef24c699f1ad29db151513f",
    "too_much_waiting": "0b86e9f3851547ea9fc1d693c6229125",
    "out_of_descriptors": "176826be695b49d7161bca54f099750e",
    "failed": "dbc50cca64e6c5b8e02ccb24ef64d480",
    "manager_unreachable": "b445889a8c68d7865d916fdf1fb864dd",
    "entries_lost": "0e767931d2afccb79dc53a8cd35af6b5",
    "store_unavailable": "7a7a14b0fb5bbf4e1562ca47d876f1b3",
    "store_recovered": "206af994c94d71cb8147acd3a9248b58",
    "state_damaged": "f08a829ef4c7d5e844568dcd649a78b9",
    "state_restored": "a1ee64066c0f6f1d3428cb82bc51fc48",
    "reloaded": "8e6c2eed35de2fb1798326e621022124",
    "reload_refused": "f0c96a54ebf674493b136bc6cbb920df",
    "needs_restart": "962c58c1e447ba576277f341a85195e1",
    "connections_kept": "6bc2268479e7b9efa9cce8b32af2ac50",
}
