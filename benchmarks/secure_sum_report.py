"""What `benchmarks.secure_sum` shows, on the screen and between the marks of docs/secure-aggregation-masks.md."""

from pathlib import Path
from typing import Any

from benchmarks.page import put_between, say_if_not_quiet

PAGE = Path(__file__).parents[1] / "docs" / "secure-aggregation-masks.md"
OPENS, CLOSES = "<!-- written by benchmarks.secure_sum -->", "<!-- end -->"
_NAMES = {
    "flower": "Flower SecAgg+",
    "tenseal": "TenSEAL CKKS",
    "shared_key": "TenSEAL BFV, as Dopamine",
    "openfhe": "OpenFHE threshold BFV",
    "opendp": "OpenDP",
}


def markdown(table: dict[str, Any]) -> str:
    """The tables of the page."""
    about, settings = table["machine"], table["settings"]
    quiet = "on a quiet machine" if table["quiet"] else "**on a machine that was not quiet: not to be quoted**"
    lines = [
        f"Measured {table['date'][:10]} {quiet}: {about['processor']}, one thread, NumPy "
        f"{about['packages']['numpy']}, {settings['hospitals']} hospitals; medians of {settings['repeats']} repeats, "
        f"with the least and the most. Milliseconds.",
        "",
        "| parameters, ring | keys | noise | masks | upload | a hospital in all | coordinator: sum of all | "
        "upload, bytes | over float32 | patients a round |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for length, row in table["sizes"].items():
        for bits, one in row["rings"].items():
            times = [one[f"{part}_seconds"] for part in ("keys", "noise", "masks", "upload", "hospital", "sum")]
            lines.append(
                f"| {int(length):,}, 2^{bits} | {' | '.join(map(_ms, times))} | {one['upload_bytes']:,} | "
                f"{one['upload_ratio_float32']:.5f} | {one['largest_sample']:,} |"
            )
    lines += [
        "",
        "| parameters | package | a hospital, ms | sum of all, ms | upload, bytes | over float32 | over ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for length, row in table["sizes"].items():
        ours = row["rings"][str(row["ring_bits"])]
        without = _ms({key: ours["hospital_seconds"][key] - ours["noise_seconds"][key] for key in ("median",)})
        lines.append(
            f"| {int(length):,} | ours, 2^{row['ring_bits']}, without noise | {without} | "
            f"{_ms(ours['sum_seconds'])} | {row['upload_bytes']:,} | {row['upload_ratio_float32']:.5f} | 1 |"
        )
        for peer, one in row["peers"].items():
            if "upload_bytes" in one:
                scaled = " (scaled)" if _is_scaled(length, one) else ""
                lines.append(
                    f"| {int(length):,} | {_NAMES[peer]} {one['version']}{scaled} | {_ms(one['hospital_seconds'])} | "
                    f"{_ms(one['sum_seconds'])} | {one['upload_bytes']:,} | {one['upload_ratio_float32']:.2f} | "
                    f"{row[f'over_{peer}_bytes']:.1f} |"
                )
    for length, row in table["sizes"].items():
        if "openfhe" in row["peers"]:
            one = row["peers"]["openfhe"]
            lines += [
                "",
                f"Threshold BFV at {int(length):,} parameters, a hospital: link of the key {_ms(one['keys_seconds'])} "
                f"ms, encryption {_ms(one['encrypt_seconds'])}, its own sum of all {_ms(one['add_seconds'])}, partial "
                f"decryption {_ms(one['partial_seconds'])}; {one['ciphertext_bytes']:,} bytes of ciphertexts and "
                f"{one['partial_bytes']:,} of partial decryptions up, {one['download_bytes']:,} of ciphertexts down. "
                f"Coordinator: sum of all as well, then fusion {_ms(one['fuse_seconds'])} ms.",
            ]
    for length, row in table["sizes"].items():
        if "opendp" in row["peers"]:
            one = row["peers"]["opendp"]
            times = one["noise_seconds"]["median"] / row["noise_seconds"]
            lines += [
                "",
                f"Noise for {int(length):,} parameters by the vector sampler of OpenDP {one['version']}, scaled from "
                f"{one['measured_parameters']:,}: {one['noise_seconds']['median']:.1f} s, {times:.0f} times ours.",
            ]
    lines += ["", "| parameters | target | predicted | measured | |", "|---|---|---|---|---|"]
    for length, row in table["sizes"].items():
        for name, one in row["targets"].items():
            measured = "not measured" if one["measured"] is None else f"{one['measured']:.5g}"
            lines.append(
                f"| {int(length):,} | `{name}` {one['target']} | {row['predicted'][name]:g} | {measured} | "
                f"{_verdict(one)} |"
            )
    if table["skipped"]:
        lines += ["", f"Left out, as they were absent: {', '.join(_NAMES[peer] for peer in table['skipped'])}."]
    return "\n".join(lines)


def write_page(page: Path, table: dict[str, Any]) -> None:
    """Puts the tables between the two marks of the page."""
    put_between(page, OPENS, CLOSES, markdown(table))


def show(table: dict[str, Any]) -> None:
    say_if_not_quiet(table)
    print(markdown(table))


def _ms(spread: dict[str, float]) -> str:
    """Milliseconds, to the places that a time of that size has."""

    def text(seconds: float) -> str:
        return f"{1e3 * seconds:,.1f}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"

    if "least" not in spread:
        return text(spread["median"])
    return f"{text(spread['median'])} ({text(spread['least'])} to {text(spread['most'])})"


def _is_scaled(length: str, peer: dict[str, Any]) -> bool:
    return bool(peer.get("measured_parameters", int(length)) != int(length))


def _verdict(target: dict[str, Any]) -> str:
    if target["met"] is None:
        return "not judged"
    return "met" if target["met"] else "**missed**"
