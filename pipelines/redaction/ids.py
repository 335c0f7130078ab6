"""National identification numbers: their forms, and the checks of `python-stdnum` where their issuers defined check digits."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from stdnum.at import vnr as at_vnr
from stdnum.au import tfn as au_tfn
from stdnum.be import nn as be_nn
from stdnum.bg import egn as bg_egn
from stdnum.br import cpf as br_cpf
from stdnum.ca import sin as ca_sin
from stdnum.ch import ssn as ch_ssn
from stdnum.cz import rc as cz_rc
from stdnum.de import idnr as de_idnr
from stdnum.dk import cpr as dk_cpr
from stdnum.ee import ik as ee_ik
from stdnum.es import dni as es_dni
from stdnum.es import nie as es_nie
from stdnum.fi import hetu as fi_hetu
from stdnum.fr import nir as fr_nir
from stdnum.gr import amka as gr_amka
from stdnum.hr import oib as hr_oib
from stdnum.ie import pps as ie_pps
from stdnum.in_ import aadhaar as in_aadhaar
from stdnum.in_ import pan as in_pan
from stdnum.it import codicefiscale as it_codicefiscale
from stdnum.lt import asmens as lt_asmens
from stdnum.nl import bsn as nl_bsn
from stdnum.no import fodselsnummer as no_fodselsnummer
from stdnum.pl import pesel as pl_pesel
from stdnum.pt import cc as pt_cc
from stdnum.ro import cnp as ro_cnp
from stdnum.se import personnummer as se_personnummer
from stdnum.tr import tckimlik as tr_tckimlik
from stdnum.us import ssn as us_ssn
from stdnum.za import idnr as za_idnr


@dataclass(frozen=True, slots=True)
class IdRule:
    """One country's number.

    Attributes:
        country: ISO 3166-1, two letters.
        form: What its capitals and digits look like, without blanks and marks.
        check: Whether they are a number that may have been issued.
        words: What it is called, in lower case.
        groups: How its digits are usually written in groups.
        is_sure: Whether form and check alone say that it is one; else its digits have to stand in `groups`, since one number
            in ten passes such a check. Where one of `words` stands in the utterance the form is enough.
    """

    country: str
    form: re.Pattern[str]
    check: Callable[[str], bool]
    words: tuple[str, ...]
    groups: tuple[int, ...] = ()
    is_sure: bool = True

    @property
    def is_digits(self) -> bool:
        """Whether it has no letters."""
        return not any("A" <= character <= "Z" for character in self.form.pattern)


def _nino(code: str) -> bool:
    """HMRC's NIM39110: no D, F, I, Q, U, V in front, no O second, and these prefixes are not given out."""
    return code[:2] not in {"BG", "GB", "NK", "KN", "TN", "NT", "ZZ"}


def _swedish(code: str) -> bool:
    return se_personnummer.is_valid(f"{code[:-4]}-{code[-4:]}")


def _finnish(code: str) -> bool:
    """Without the mark of the century, which a transcript loses: the check letter covers the digits only."""
    return fi_hetu.is_valid(f"{code[:6]}-{code[-4:]}") or fi_hetu.is_valid(f"{code[:6]}A{code[-4:]}")


def _rule(
    country: str,
    form: str,
    check: Callable[[str], bool],
    words: str,
    groups: tuple[int, ...] = (),
    *,
    sure: bool = True,
) -> IdRule:
    return IdRule(country, re.compile(form), check, tuple(words.split("|")), groups, sure)


RULES = (
    _rule("US", r"\d{9}", us_ssn.is_valid, "social security|ssn|my social|social number", (3, 2, 4), sure=False),
    _rule("GB", r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]", _nino, "national insurance|nino|ni number"),
    _rule("DE", r"\d{11}", de_idnr.is_valid, "steuer|tax id|idnr"),
    _rule("FR", r"[12]\d{12}(?:\d\d)", fr_nir.is_valid, "sécu|insee|nir"),
    _rule("ES", r"\d{8}[A-Z]", es_dni.is_valid, "dni"),
    _rule("ES", r"[XYZ]\d{7}[A-Z]", es_nie.is_valid, "nie"),
    _rule("IT", r"[A-Z]{6}[\dL-NP-V]{2}[A-Z][\dL-NP-V]{2}[A-Z][\dL-NP-V]{3}[A-Z]", it_codicefiscale.is_valid, "codice"),
    _rule("NL", r"\d{9}", nl_bsn.is_valid, "bsn|burgerservice|citizen service|sofi", sure=False),
    _rule("PL", r"\d{11}", pl_pesel.is_valid, "pesel"),
    _rule("AT", r"\d{10}", at_vnr.is_valid, "sozialversicherung|svnr|sv-nummer", sure=False),
    _rule("AU", r"\d{8,9}", au_tfn.is_valid, "tax file|tfn", sure=False),
    _rule("BE", r"\d{11}", be_nn.is_valid, "rijksregister|registre national|national register"),
    _rule("BG", r"\d{10}", bg_egn.is_valid, "egn|егн", sure=False),
    _rule("BR", r"\d{11}", br_cpf.is_valid, "cpf"),
    _rule("CA", r"\d{9}", ca_sin.is_valid, "social insurance|sin number|my sin", sure=False),
    _rule("CH", r"756\d{10}", ch_ssn.is_valid, "ahv|avs"),
    _rule("CZ", r"\d{9,10}", cz_rc.is_valid, "rodné|birth number", (6, 4), sure=False),
    _rule("DK", r"\d{10}", dk_cpr.is_valid, "cpr|personnummer", (6, 4), sure=False),
    _rule("EE", r"[1-8]\d{10}", ee_ik.is_valid, "isikukood", sure=False),
    _rule("FI", r"\d{6}A?\d{3}[0-9A-Y]", _finnish, "henkilötunnus|hetu", sure=False),
    _rule("GR", r"\d{11}", gr_amka.is_valid, "amka|αμκα", sure=False),
    _rule("HR", r"\d{11}", hr_oib.is_valid, "oib", sure=False),
    _rule("IE", r"\d{7}[A-W][A-I]?", ie_pps.is_valid, "pps"),
    _rule("IN", r"[2-9]\d{11}", in_aadhaar.is_valid, "aadhaar", (4, 4, 4), sure=False),
    _rule("IN", r"[A-Z]{5}\d{4}[A-Z]", in_pan.is_valid, "pan", sure=False),
    _rule("LT", r"[1-8]\d{10}", lt_asmens.is_valid, "asmens", sure=False),
    _rule("NO", r"\d{11}", no_fodselsnummer.is_valid, "fødselsnummer|personnummer"),
    _rule("PT", r"\d{9}[A-Z0-9]{2}\d", pt_cc.is_valid, "cartão", sure=False),
    _rule("RO", r"\d{13}", ro_cnp.is_valid, "cnp"),
    _rule("SE", r"(?:\d\d)?\d{10}", _swedish, "personnummer|personal number", (6, 4), sure=False),
    _rule("TR", r"[1-9]\d{10}", tr_tckimlik.is_valid, "kimlik"),
    _rule("ZA", r"\d{13}", za_idnr.is_valid, "identity number|id number"),
)

COUNTRIES = tuple(sorted({rule.country for rule in RULES}))
"""Countries of which a national number is known; telephone numbers are known of every country."""
