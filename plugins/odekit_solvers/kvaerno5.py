"""Kværnø's ESDIRK method of order five, which looks beyond its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from torch import Tensor

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
        b_dense=(
            (1, -2.1970781418525043, 2.057494556058134, -0.8407671276767477, 0.11694822524752027),
            (0, 0, 0, 0, 0),
            (0, 0.04381697072395496, 0.4396936676554293, -1.285683687309652, 0.747203960964884),
            (0, -4.857360059870837, 13.469532427978612, -12.572916012760864, 3.9195573773698715),
            (0, 3.927337994363761, -5.96196568182434, 3.291582625508256, -0.6270218890575074),
            (1.3363657577898203, -12.392677857829172, 32.42039648778937, -32.66009846084057, 11.365638867572581),
            (-1.3363657577898245, 15.475961094464845, -42.425151457657336, 44.06788266307971, -15.522326542097394),
        ),
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
        b_dense=(
            (0.8203036881706597, -4.818003818720545, 15.049186237858397, -19.88480105439549, 8.737766360335579),
            (0, 0, 0, 0, 0),
            (-3.3155272057905467, 10.905059878395402, 27.384223663476526, -75.54316344124983, 40.56940710516845),
            (1.3152139734492327, 15.49254184257981, -104.32788318963216, 174.72081635193402, -84.86199617456566),
            (-0.4876630105759445, 2.7329529300266233, -0.5484772619091087, -6.9844488437160095, 5.147204430091964),
            (1.849343713228019, -20.3794858538013, 65.84303249611584, -93.32804482735638, 43.94456676385725),
            (0.5308201076382129, -2.263556247102806, -4.142510450539795, 17.95082458511263, -11.312702748083055),
            (0.28750873384247755, -1.6695087311487302, 0.7424285044757122, 3.0688172293931393, -2.2242457365625987),
        ),
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

    Dense output of order four, from the stages: of all weights b_i(θ) that meet the conditions of that order and let
    no infinitely stiff component grow, b_1 = Σ_{j>1} b_j (Ã⁻¹ ã)_j with Ã the rows and columns of a from the second on
    and ã the rest of its first column, those that miss the conditions of order five by least. Neither paper has one.
    """

    name = "kvaerno5"
    order = 5
    tableau = _tableau()
    rowwise = False

    def step(self, f: VectorField, t0: Time, t1: Time, y0: Any, carry: Carry) -> Step:
        if f.inside(t0 + self.tableau.c[2] * (t1 - t0)):
            return super().step(f, t0, t1, y0, carry)
        fresh = Kept.begun(f, carry.linear, t0, y0)  # one method's matrices do not serve the other
        step = self._inner.step(f, t0, t1, y0, carry._replace(kept=fresh))
        return attrs.evolve(step, carry=step.carry._replace(kept=fresh), retry=None)

    def interpolate(self, step: Step, theta: Time) -> Tensor:
        return self._inner.interpolate(step, theta) if _by_inner(step) else super().interpolate(step, theta)

    def derivative(self, step: Step, theta: Time) -> Tensor:
        return self._inner.derivative(step, theta) if _by_inner(step) else super().derivative(step, theta)

    @property
    def _inner(self) -> _Inner:
        return _Inner(newton=self.newton, linear=self.linear)


def _by_inner(step: Step) -> bool:
    """Whether the step is one of the method that stays within its steps."""
    return len(step.dense) == len(_Inner.tableau.b)


@odekit.hookimpl
def register_solvers(register: Callable[[type], None]) -> None:
    register(Kvaerno5)
