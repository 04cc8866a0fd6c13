"""Running graphs on LiteRT: sessions with probed tensors, and figures about their outputs."""
