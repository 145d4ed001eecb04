"""By what words a request is told: its language by scripts that only one has and by the most frequent words of others,
what it asks for by a few in English and German."""

from __future__ import annotations

import re
from collections.abc import Mapping

SCRIPTS: Mapping[str, re.Pattern[str]] = {
    "ja": re.compile("[\u3040-\u30ff]"),  # kana; among Chinese characters it is Japanese
    "ko": re.compile("[\uac00-\ud7af\u1100-\u11ff]"),
    "zh": re.compile("[\u4e00-\u9fff]"),
    "el": re.compile("[\u0370-\u03ff\u1f00-\u1fff]"),
    "he": re.compile("[\u0590-\u05ff]"),
    "th": re.compile("[\u0e00-\u0e7f]"),
    "ka": re.compile("[\u10a0-\u10ff]"),
    "hy": re.compile("[\u0530-\u058f]"),
}

_MOST_FREQUENT = {
    "en": "the of and to in is that it for was on are with as at be this have from or by not what how can "
    "you my do does why which will we an please when where should your but they has",
    "de": "der die das und ist nicht ich zu den mit von es ein eine auf für dem im wie was kann wird auch "
    "sich bei aus nach warum wenn oder wir sie bitte einen mein meine hat sind noch zum zur",
    "fr": "le la les de des et est un une du que qui dans pour pas sur avec je il nous vous au ce cette "
    "comment pourquoi quel mon ma sont mais être faire quelle aux",
    "es": "el la los las de y que en un una es por con para no se del al como cómo qué lo está son mi su "
    "pero más puedo hay este esta cuando dónde",
    "it": "il la le di e che è un una in per non con del della sono come perché cosa mi si da ma questo "
    "questa nel alla gli anche dove quando più posso",
    "nl": "de het een en van is dat in niet op te zijn voor met die ik je hoe wat kan er aan maar ook "
    "waarom naar wordt bij deze mijn als",
    "pt": "o a os as de e que em um uma é não por com para do da no na como se mas está são meu minha você "
    "quando onde mais pode isso ao",
    "pl": "i w na nie się jest do z że to jak czy co od po dla są ale mam może dlaczego przez przy tak "
    "tylko jego który",
    "sv": "och att det är en ett som på för med inte jag den av till om har hur vad kan men från var vi du varför när",
    "da": "og at det er en et som på for med ikke jeg den af til om har hvordan hvad kan men fra var vi du hvorfor når",
    "fi": "ja on ei se että mutta kun miten mitä minä olen voi tämä joka ovat niin kuin myös miksi hän ole",
    "cs": "a v na se je že to s do ne jak co pro ale jsem jsou nebo který při proč když mám může tak jen",
    "tr": "ve bir bu için ile ne nasıl mi mı değil çok var daha gibi ama neden olarak olan ben sen",
    "ro": "și de la în nu este un o cu pe care că din pentru ce cum sunt mai dar când unde fi",
    "ru": "и в не на что я с он как это по но из у за то от для так же все если почему чтобы есть было",
    "uk": "і в не на що я з він як це по але із у за то від для так же все якщо чому щоб є було та",
    "bg": "и в не на що аз с той как това по но от за да се са като защо ако е има че при или",
}


def _by_word() -> Mapping[str, tuple[str, ...]]:
    codes: dict[str, tuple[str, ...]] = {}
    for code, words in _MOST_FREQUENT.items():
        for word in dict.fromkeys(words.split()):
            codes[word] = (*codes.get(word, ()), code)
    return codes


WORDS = _by_word()
"""The codes of the languages in which a word is frequent."""

HARD = frozenset(
    "why how prove derive compare explain design optimize optimise analyze analyse diagnose debug refactor tradeoff "
    "tradeoffs step steps warum wieso weshalb wie beweise vergleiche erkläre begründe entwirf optimiere analysiere "
    "schritt".split()
)
"""They ask for reasons or a design."""

CONSTRAINTS = frozenset(
    "must only exactly least most without should ensure unless except never always between muss darf nur genau "
    "mindestens höchstens ohne außer nie immer zwischen".split()
)
"""They bound what an answer may be."""
