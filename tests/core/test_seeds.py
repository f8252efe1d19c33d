from kdbench.core.seeds import derive_seed


def test_streams_differ_and_are_the_same_everywhere() -> None:
    assert derive_seed(0, "init") == 1749912909633406932
    assert len({derive_seed(seed, name) for seed in range(50) for name in ("init", "order", "views")}) == 150


def test_numbers_and_their_texts_name_one_stream() -> None:
    assert derive_seed(0, "step", 3) == derive_seed(0, "step", "3")
