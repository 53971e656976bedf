"""Commands that make samples with a model: from any slots, in a part of one, on the way between two."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_data import STORE, Answer, Json, StoreOption

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
ModelRef = Annotated[str, typer.Argument(metavar="MODEL", help="name[@version|@alias], models:/name@alias")]
GivenSlot = Annotated[
    list[str] | None, typer.Option("--slot", metavar="NAME=VALUE", help="Another given slot: text, or a file.")
]
Num = Annotated[int, typer.Option(min=1, help="Samples to make.")]
Guidance = Annotated[
    list[str] | None,
    typer.Option(metavar="N|GIVEN:MADE=N", help="Classifier-free guidance, 1 is none; or that of one pair of slots."),
]
Sampler = Annotated[str | None, typer.Option(help="euler, heun or dpm; default: the model's own.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Sampler steps.")]
Seed = Annotated[int, typer.Option(help="The same seed writes the same bytes on one machine.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files.")]
OUT = Path("generated")


def add(app: typer.Typer, answer: Answer) -> None:
    """Put the commands on `app`. answer: shows a result to a program or a person."""

    @app.command()
    def generate(
        model: ModelRef,
        to: Annotated[str, typer.Option(help="Slots to make, with commas: image,audio,text.")],
        text: Annotated[str | None, typer.Option(help="Given text.")] = None,
        image: Annotated[Path | None, typer.Option(help="Given image file.")] = None,
        audio: Annotated[Path | None, typer.Option(help="Given audio file.")] = None,
        slot: GivenSlot = None,
        num: Num = 1,
        guidance: Guidance = None,
        negative: Annotated[
            list[str] | None, typer.Option(metavar="NAME=VALUE", help="A slot to move away from: text, or a file.")
        ] = None,
        mix: Annotated[
            list[str] | None,
            typer.Option(
                metavar="WEIGHT:NAME=VALUE", help="One of several conditions that are mixed by their weights."
            ),
        ] = None,
        strength: Annotated[
            float | None, typer.Option(help="Vary what is given and made: 1 altogether, less stays nearer to it.")
        ] = None,
        sampler: Sampler = None,
        shift: Annotated[float, typer.Option(help="More than 1 puts more of the steps near the noise.")] = 1.0,
        steps: Steps = None,
        temperature: Annotated[
            float | None, typer.Option(help="Of texts written token by token: 0 is the likeliest.")
        ] = None,
        top_k: Annotated[int | None, typer.Option(help="Of such texts: draw only from the K likeliest tokens.")] = None,
        top_p: Annotated[
            float | None, typer.Option(help="Of such texts: only from the likeliest of this share.")
        ] = None,
        beams: Annotated[
            int | None, typer.Option(help="Of such texts: search with so many beams, draw nothing.")
        ] = None,
        prefix: Annotated[
            list[str] | None, typer.Option(metavar="NAME=TEXT", help="What the made texts of a slot begin with.")
        ] = None,
        candidates: Annotated[
            int | None,
            typer.Option(min=1, help="Samples made for each one that is kept, which goes best with what is given."),
        ] = None,
        seed: Seed = 0,
        out: Out = OUT,
        store: StoreOption = STORE,
        device: Device = "auto",
        as_json: Json = False,
    ) -> None:
        """Make samples with a model, from any slots to any slots, and print the files written."""
        from flows.samples import Wish, given_slots, make
        from mmgen.asking import Asked, read_guidance, read_mix, read_named

        plain, pairs = read_guidance(guidance or [], "--guidance")
        away, mixed = read_named(negative or [], "--negative"), read_mix(mix or [], "--mix")
        wanted = tuple(name.strip() for name in to.split(",") if name.strip())
        asked = Asked(
            plain, pairs, away, mixed, strength, sampler, shift, steps, temperature, top_k, top_p, beams,
            read_named(prefix or [], "--prefix"), candidates,
        )  # fmt: skip
        wish = Wish(given_slots(text, image, audio, slot or []), num, seed, asked, wanted)
        answer(as_json, make(model, wish, out, store, device), _show_files)

    @app.command()
    def inpaint(
        model: ModelRef,
        value: Annotated[str, typer.Argument(metavar="NAME=FILE", help="The image or sound, by its slot.")],
        hole: Annotated[
            str,
            typer.Option(metavar="MASK|START:STOP", help="A mask, white where it is made anew, or seconds of a sound."),
        ],
        slot: GivenSlot = None,
        num: Num = 1,
        guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance; 1 is none.")] = None,
        sampler: Sampler = None,
        steps: Steps = None,
        seed: Seed = 0,
        out: Out = OUT,
        store: StoreOption = STORE,
        device: Device = "auto",
        as_json: Json = False,
    ) -> None:
        """Make a part of an image or sound anew; all around it stays as it is."""
        from flows import samples
        from mmgen.asking import Asked, read_named

        (name,) = read_named([value], "NAME=FILE")
        given = samples.given_slots(None, None, None, [value, *(slot or [])])
        wish = samples.Wish(given, num, seed, Asked(guidance=guidance, sampler=sampler, steps=steps))
        answer(as_json, samples.inpaint(model, name, samples.hole_of(hole), wish, out, store, device), _show_files)

    @app.command()
    def interpolate(
        model: ModelRef,
        one: Annotated[list[str], typer.Option("--from", metavar="NAME=VALUE", help="One end: text, or a file.")],
        other: Annotated[
            list[str], typer.Option("--to", metavar="NAME=VALUE", help="The other end, of the same slots.")
        ],
        slot: GivenSlot = None,
        num: Annotated[int, typer.Option(min=2, help="Samples to make, both ends among them.")] = 5,
        steps: Steps = None,
        out: Out = OUT,
        store: StoreOption = STORE,
        device: Device = "auto",
        as_json: Json = False,
    ) -> None:
        """Make samples on the way from one sample to another."""
        from flows import samples
        from mmgen.asking import Asked, read_named

        wish = samples.Wish(samples.given_slots(None, None, None, slot or []), num, asked=Asked(steps=steps))
        ends = read_named(one, "--from"), read_named(other, "--to")
        answer(as_json, samples.interpolate(model, *ends, wish, out, store, device), _show_files)


def _show_files(answer: dict[str, Any]) -> None:
    print("\n".join(answer["files"]))
