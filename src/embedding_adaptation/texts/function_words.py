"""English function words, which attention analysis and the words of clusters distinguish from content words."""

# The closed classes of English: determiners, pronouns, prepositions, conjunctions, auxiliaries, particles and common adverbs of degree.
FUNCTION_WORDS = frozenset(
    """a an the this that these those some any no every each either neither both all half such another other others
    i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself we us our ours ourselves
    they them their theirs themselves one ones oneself someone somebody something anyone anybody anything everyone everybody everything
    nobody nothing none who whom whose which what whoever whatever whichever
    of in on at by for with about against between into through during before after above below to from up down out off over under within
    without upon onto towards toward across along around behind beside besides beyond despite except inside near outside past per
    since than till until via amid among amongst throughout underneath unlike regarding concerning
    and or but nor so yet if because as while whereas although though unless whether when whenever where wherever why how once
    am is are was were be been being do does did doing done have has had having can could will would shall should may might must ought
    ca wo sha cannot dont doesnt didnt isnt arent wasnt werent hasnt havent hadnt wont wouldnt cant couldnt shouldnt im ive
    not n't there here then too very also just only even still again ever never always quite rather almost already
    more most less least much many few little own same""".split()  # noqa: SIM905  two hundred quotation marks help nobody
)
