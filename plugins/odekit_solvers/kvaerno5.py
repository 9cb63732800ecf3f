"""Kværnø's ESDIRK method of order five, which looks beyond its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

import odekit
from odekit.core.implicit_runge_kutta import Carry, DiagonallyImplicitRungeKutta
from odekit.core.protocols import Step, VectorField
from odekit.core.reuse import Kept
from odekit.core.runge_kutta import ButcherTableau
from odekit.core.times import Time


def _tableau() -> ButcherTableau:
    g = 0.26
    stage6 = (0.13855640231268224, 0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, g)
    stage7 = (
        0.13659751177640291, 0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403, 0.06962479448202728, g
    )  # fmt: skip
    return ButcherTableau(
        c=(0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1, 1),
        a=(
            (),
            (g, g),
            (0.13, 0.84033320996790809, g),
            (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, g),
            (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, g),
            stage6,
            stage7,
        ),
        b=stage7,
        b_error=[b - embedded for b, embedded in zip(stage7, (*stage6, 0), strict=True)],
        reach=1.24,
    )


def _inner_tableau() -> ButcherTableau:
    """ARK5(4)8L[2]SA, implicit half: Kennedy & Carpenter 2003, *Additive Runge-Kutta schemes*, Appendix C."""
    g = 41 / 200
    b = (
        -872700587467 / 9133579230613,
        0,
        0,
        22348218063261 / 9555858737531,
        -1143369518992 / 8141816002931,
        -39379526789629 / 19018526304540,
        32727382324388 / 42900044865799,
        g,
    )
    embedded = (
        -975461918565 / 9796059967033,
        0,
        0,
        78070527104295 / 32432590147079,
        -548382580838 / 3424219808633,
        -33438840321285 / 15594753105479,
        3629800801594 / 4656183773603,
        4035322873751 / 18575991585200,
    )
    return ButcherTableau(
        c=(0, 0.41, 2935347310677 / 11292855782101, 1426016391358 / 7196633302097, 0.92, 0.24, 0.6, 1),
        a=(
            (),
            (g, g),
            (41 / 400, -567603406766 / 11931857230679, g),
            (683785636431 / 9252920307686, 0, -110385047103 / 1367015193373, g),
            (
                3016520224154 / 10081342136671,
                0,
                30586259806659 / 12414158314087,
                -22760509404356 / 11113319521817,
                g,
            ),
            (
                218866479029 / 1489978393911,
                0,
                638256894668 / 5436446318841,
                -1179710474555 / 5321154724896,
                -60928119172 / 8023461067671,
                g,
            ),
            (
                1020004230633 / 5715676835656,
                0,
                25762820946817 / 25263940353407,
                -2161375909145 / 9755907335909,
                -211217309593 / 5846859502534,
                -4269925059573 / 7827059040719,
                g,
            ),
            b,
        ),
        b=b,
        b_error=[weight - other for weight, other in zip(b, embedded, strict=True)],
    )


class _Inner(DiagonallyImplicitRungeKutta):
    """Kennedy and Carpenter's L-stable ESDIRK 5(4) pair, whose nodes all lie within the step."""

    name = "kencarp5"
    order = 5
    tableau = _inner_tableau()


class Kvaerno5(DiagonallyImplicitRungeKutta):
    """Kværnø's L-stable ESDIRK 5(4) pair. Kværnø 2004, *SDIRK methods with an explicit first stage*.

    Its third node lies at 1.23 steps. Where that is beyond the span, which is so in the last step, or beyond a
    discontinuity of f, a step of Kennedy and Carpenter's method of the same order is taken instead: f
    is never called outside the span.
    """

    name = "kvaerno5"
    order = 5
    tableau = _tableau()
    rowwise = False

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Any, carry: Carry) -> Step:
        if f.inside(t0 + self.tableau.c[2] * (t1 - t0)):
            return super().step(f, t0, t1, y0, carry)
        last = _Inner(newton=self.newton, linear=self.linear)
        fresh = Kept.begun(f, carry.linear, t0, y0)  # one method's matrices do not serve the other
        step = last.step(f, t0, t1, y0, carry._replace(kept=fresh))
        return attrs.evolve(step, carry=step.carry._replace(kept=fresh), retry=None)


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Kvaerno5)
