"""The words of MiniLab and its hidden table: which option is right for which substance.

Every word is a single run of letters and digits and appears once in the whole vocabulary, so that
a fact can be said in one short sentence and recognised anywhere.
"""

from __future__ import annotations

import random

import msgspec


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CATEGORIES: dict[str, tuple[str, ...]] = {
    "metal": _words(
        "cobalt nickel copper zinc iron chromium manganese titanium vanadium tungsten molybdenum niobium tantalum "
        "hafnium zirconium silver gold palladium rhodium iridium"
    ),
    "solvent": _words(
        "ethanol methanol acetone toluene hexane benzene chloroform dioxane pyridine heptane pentane xylene butanol "
        "propanol anisole cyclohexane acetonitrile dichloromethane isopropanol glyme"
    ),
    "reagent": _words(
        "hydrazine borane oxone phosgene iodine peroxide permanganate dichromate thionyl triflate mesylate tosylate "
        "diazomethane cyanamide hydroxylamine ninhydrin glyoxal formalin chloramine borax"
    ),
    "gas": _words(
        "argon helium neon krypton xenon nitrogen oxygen hydrogen methane ethane propane butane ethylene acetylene "
        "ammonia ozone chlorine fluorine radon silane"
    ),
    "dye": _words(
        "indigo alizarin eosin fluorescein rhodamine safranin fuchsin malachite azure cochineal carmine madder "
        "saffron woad mauveine thionin erythrosine tartrazine orcein nigrosin"
    ),
    "resin": _words(
        "amber copal dammar mastic shellac rosin epoxy bakelite melamine phenolic vinyl acrylic polyester urethane "
        "silicone frankincense myrrh benzoin sandarac elemi"
    ),
}
"""Category -> its 20 values (substances). The category at position i belongs to the knob at i."""

KNOBS: dict[str, tuple[str, ...]] = {
    "anneal": _words("300C 350C 400C 450C 500C 550C 600C 650C"),
    "mix": _words("slow gentle steady brisk fast pulsed orbital vortex"),
    "catalyst": _words("zeolite raney lindlar ziegler grubbs enzyme alumina clay"),
    "flow": _words("5sccm 10sccm 20sccm 40sccm 60sccm 80sccm 120sccm 160sccm"),
    "bath": _words("ice brine oil sand steam salt paraffin ultrasonic"),
    "press": _words("1bar 2bar 5bar 10bar 20bar 50bar 100bar 200bar"),
}
"""Knob -> its 8 options, in the fixed order of the recipe's lines."""

UNSET = "unset"
"""What a recipe says of a knob before anyone set it."""


class Fact(msgspec.Struct, frozen=True):
    """For ``value``, the right option of ``knob``."""

    value: str
    knob: str
    option: str

    @property
    def advice(self) -> str:
        """The fact as an expert says it."""
        return f"for {self.value} set {self.knob} to {self.option}"


def knob_of(value: str) -> str:
    """The knob on which a value has a right option.

    Raises:
        KeyError: no such value.
    """
    for knob, values in zip(KNOBS, CATEGORIES.values(), strict=True):
        if value in values:
            return knob
    raise KeyError(value)


def fact_table(seed: int) -> dict[str, Fact]:
    """Value -> its fact, for all 120 values; each option is drawn uniformly and independently."""
    draw = random.Random(f"minilab-facts:{seed}")
    return {
        value: Fact(value, knob, draw.choice(KNOBS[knob]))
        for knob, values in zip(KNOBS, CATEGORIES.values(), strict=True)
        for value in values
    }
