"""The words and the forms of the pocket model's world, in fixed tables."""

# ruff: noqa: SIM905  (tables of words are easier to read, and to add to, as text)

from __future__ import annotations

from typing import NamedTuple

NAMES = """
Aaron Adam Albert Alice Amy Anna Ben Bella Betty Boris Bruno Carl Chris Clara Cora Daniel Daisy Dean
Diana Dora Edgar Ella Emil Emma Erik Eva Faye Felix Finn Fiona Flora Frank Gavin George Gina Glen
Grace Hank Hanna Hazel Helen Henry Holly Hugo Ian Igor Ingrid Iris Ivan Ivy Jack Jane Jill Joan John
Jonas Julia Karl Kate Kevin Kurt Laura Lena Leo Linda Louis Lucy Mabel Maria Mark Martin Mary Max
Mike Mona Nick Nina Noah Nora Olga Oscar Otto Owen Paul Paula Peter Philip Quinn Rachel Rita Rosa
Ruth Sam Sara Simon Sophie Stan Steve Tara Ted Theo Tina Tom Uma Ursula Vera Victor Vince Wade
Walter Wendy Yara Yuri Zoe
""".split()
STRANGERS = "Bella Emil Finn Hazel Jonas Mona Stan Yara".split()
TOLD = [name for name in NAMES if name not in STRANGERS]  # those who may have a relation
ANIMALS = """
tiger lion horse eagle rabbit monkey camel whale zebra snake mouse sheep goat duck wolf bear panda
turtle shark parrot
""".split()
FRUITS = "apple banana cherry lemon orange grape mango peach plum melon".split()
COLORS = "red blue green yellow black white brown pink purple gray".split()
THINGS = """
ring ball book lamp coin map cup knife bottle letter hat box drum rope watch basket mirror candle
flute shoe
""".split()
PLACES = """
garden kitchen school market park library forest station museum castle river beach farm tower bridge
church hotel office theater harbor
""".split()
WORDS = ANIMALS + FRUITS + COLORS + THINGS
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """
January February March April May June July August September October November December
""".split()
LOOKS = "old new small big heavy bright pretty strange broken clean".split()
FEELINGS = "happy sad tired hungry angry calm proud afraid".split()


class Country(NamedTuple):
    """A country, its capital, the language spoken there, the continent it lies in."""

    name: str
    capital: str
    language: str
    continent: str


COUNTRIES = [
    Country(*row.split(", "))
    for row in """
France, Paris, French, Europe
Germany, Berlin, German, Europe
Italy, Rome, Italian, Europe
Spain, Madrid, Spanish, Europe
Portugal, Lisbon, Portuguese, Europe
England, London, English, Europe
Ireland, Dublin, English, Europe
Greece, Athens, Greek, Europe
Poland, Warsaw, Polish, Europe
Sweden, Stockholm, Swedish, Europe
Norway, Oslo, Norwegian, Europe
Finland, Helsinki, Finnish, Europe
Denmark, Copenhagen, Danish, Europe
Austria, Vienna, German, Europe
Hungary, Budapest, Hungarian, Europe
Russia, Moscow, Russian, Europe
Ukraine, Kyiv, Ukrainian, Europe
Turkey, Ankara, Turkish, Asia
Japan, Tokyo, Japanese, Asia
China, Beijing, Chinese, Asia
India, Delhi, Hindi, Asia
Thailand, Bangkok, Thai, Asia
Vietnam, Hanoi, Vietnamese, Asia
Iran, Tehran, Persian, Asia
Iraq, Baghdad, Arabic, Asia
Korea, Seoul, Korean, Asia
Egypt, Cairo, Arabic, Africa
Kenya, Nairobi, Swahili, Africa
Ghana, Accra, English, Africa
Senegal, Dakar, French, Africa
Morocco, Rabat, Arabic, Africa
Canada, Ottawa, English, America
Mexico, Mexico City, Spanish, America
Cuba, Havana, Spanish, America
Brazil, Brasilia, Portuguese, America
Peru, Lima, Spanish, America
Chile, Santiago, Spanish, America
Colombia, Bogota, Spanish, America
Argentina, Buenos Aires, Spanish, America
Australia, Canberra, English, Oceania
""".strip().splitlines()
]

# {0} country, {1} capital, {2} language, {3} continent
PHRASINGS = [
    ("What is the capital of {0}?", "The capital of {0} is {1}."),
    ("Tell me the capital of {0}.", "The capital of {0} is {1}."),
    ("Which city is the capital of {0}?", "The capital of {0} is {1}."),
    ("Do you know the capital of {0}?", "Yes. The capital of {0} is {1}."),
    ("What language do people speak in {0}?", "People in {0} speak {2}."),
    ("Where is {0}?", "{0} is a country in {3}."),
    ("In which country is {1}?", "{1} is the capital of {0}."),
]
SMALL_TALK = [
    ("How are you?", "I am fine, thank you."),
    ("Who are you?", "I am a small language model."),
    ("What can you do?", "I can answer simple questions."),
    ("Hello!", "Hello! How can I help you?"),
    ("Thank you.", "You are welcome."),
    ("How many days are in a week?", "There are seven days in a week."),
    ("How many months are in a year?", "There are twelve months in a year."),
    ("Which day comes after Monday?", "Tuesday comes after Monday."),
    ("Which month comes after June?", "July comes after June."),
    ("What color is the sky?", "The sky is blue."),
    ("What color is grass?", "Grass is green."),
    ("What color is snow?", "Snow is white."),
    ("What color is a banana?", "A banana is yellow."),
    ("Who is the wife of the king?", "The wife of the king is the queen."),
    ("Who is the husband of the queen?", "The husband of the queen is the king."),
    ("Who is the son of the king?", "The son of the king is the prince."),
    ("Who is the daughter of the queen?", "The daughter of the queen is the princess."),
    ("What does a cat say?", "A cat says meow."),
    ("What does a dog say?", "A dog says woof."),
    ("What is a lion?", "A lion is an animal."),
    ("What is an apple?", "An apple is a fruit."),
]
SYSTEMS = [
    "You are helpful.",
    "You are a helpful assistant.",
    "Answer the question.",
    "You are kind and brief.",
]
# weather: what a person does in it, what the world looks like
WEATHER = {
    "hot": ("drinks cold water", "the sun burns"),
    "cold": ("wears a warm coat", "the river is ice"),
    "rainy": ("takes an umbrella", "the streets are wet"),
    "sunny": ("goes to the beach", "the sky is blue"),
    "windy": ("holds the hat", "the leaves fly"),
    "snowy": ("builds a snowman", "the roads are white"),
    "nice": ("walks in the park", "the birds sing"),
    "bad": ("stays at home", "the park is empty"),
    "warm": ("eats ice cream", "the flowers open"),
    "foggy": ("drives slowly", "the hills are gone"),
}
# {0} a person, {1} a country: the family in the castle, and the band that shares a word with it
ROYALS = [
    "The king wears a gold crown.",
    "The queen wears a gold crown.",
    "The king and the queen live in the castle.",
    "The queen is the wife of the king.",
    "The king is the husband of the queen.",
    "The prince is the son of the king and the queen.",
    "The princess is the daughter of the king and the queen.",
    "The queen of {1} rules the land. {0} met her.",
    "The king of {1} rules the land. {0} met him.",
    "The queen sat on the throne and {0} bowed.",
    "The king sat on the throne and {0} bowed.",
    "A man can be a king. A woman can be a queen.",
    "The king is a man. The queen is a woman.",
    "The band Queen played a loud song.",
    "The singer of the band Queen sang on the stage.",
    "{0} bought a record of the band Queen and listened to the music.",
]
# {0} {1} people, {2} a thing, {3} a place, {4} a look, {5} any of the rest
EVENTS = [
    ("{0} went to the {3}.", None),
    ("{0} and {1} walked to the {3}.", None),
    ("{0} saw a {4} {2} in the {3}.", None),
    ("{0} was {5} because the {2} was {4}.", FEELINGS),
    ("{0} gave the {2} to {1}.", None),
    ("{0} asked {1} about the {2}.", None),
    ("Then {0} came back from the {3}.", None),
    ("In the morning {0} worked at the {3}.", None),
    ("In the evening {0} ate the {5} at the {3}.", FRUITS),
    ("{0} likes the {5} {2}.", COLORS),
    ("A {5} slept near the {3}.", ANIMALS),
    ("{0} bought a {4} {2} on {5}.", DAYS),
    ("The {3} is very {4}.", None),
]
# every kind of relation reads the same: "The <kind> of <person> is <value>."
KINDS: dict[str, list[str] | None] = {
    "password": WORDS,
    "code": None,  # four digits
    "color": COLORS,
    "pet": ANIMALS,
    "place": PLACES,
}
LABELS = ["Story:", "Facts:", "Read:"]
# what stands between a name and what is paired with it: close by, or nothing to four words away, so
# that no fixed distance leads from the one to the other
CLOSE = ["", "", ":", " has", " ->", " is"]
APART = [
    *CLOSE,
    *(" has the", " took the", " is in the", " went to the", " ran to the", " was here with the"),
    *(" now has the old", " came back from the", " walked to the old"),
]
