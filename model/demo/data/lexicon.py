"""The closed vocabulary of the synthetic world: countries, names, words, syllables."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Country:
    """One country; `population` is its capital's, in millions, good for rough comparison only."""

    name: str
    capital: str
    continent: str
    population: float


_TABLE = """
France,Paris,Europe,2.1|Germany,Berlin,Europe,3.7|Japan,Tokyo,Asia,14|Italy,Rome,Europe,2.8
Spain,Madrid,Europe,3.3|Portugal,Lisbon,Europe,0.55|Poland,Warsaw,Europe,1.8
Austria,Vienna,Europe,2.0|Switzerland,Bern,Europe,0.13|Belgium,Brussels,Europe,1.2
the Netherlands,Amsterdam,Europe,0.9|Denmark,Copenhagen,Europe,0.65|Sweden,Stockholm,Europe,1.0
Norway,Oslo,Europe,0.7|Finland,Helsinki,Europe,0.66|Iceland,Reykjavik,Europe,0.14
Ireland,Dublin,Europe,0.6|the United Kingdom,London,Europe,8.9|Greece,Athens,Europe,0.64
Turkey,Ankara,Asia,5.7|Hungary,Budapest,Europe,1.7|Romania,Bucharest,Europe,1.7
Bulgaria,Sofia,Europe,1.2|Serbia,Belgrade,Europe,1.4|Croatia,Zagreb,Europe,0.77
Slovenia,Ljubljana,Europe,0.29|Slovakia,Bratislava,Europe,0.48|Ukraine,Kyiv,Europe,2.9
Russia,Moscow,Europe,13|Estonia,Tallinn,Europe,0.45|Latvia,Riga,Europe,0.6
Lithuania,Vilnius,Europe,0.59|Malta,Valletta,Europe,0.006|Luxembourg,Luxembourg City,Europe,0.13
the Czech Republic,Prague,Europe,1.4|Albania,Tirana,Europe,0.52|China,Beijing,Asia,21
India,New Delhi,Asia,0.25|South Korea,Seoul,Asia,9.4|North Korea,Pyongyang,Asia,3.2
Vietnam,Hanoi,Asia,8.4|Thailand,Bangkok,Asia,10|Indonesia,Jakarta,Asia,10.6
Malaysia,Kuala Lumpur,Asia,1.9|the Philippines,Manila,Asia,1.8|Mongolia,Ulaanbaatar,Asia,1.6
Nepal,Kathmandu,Asia,0.85|Pakistan,Islamabad,Asia,1.1|Bangladesh,Dhaka,Asia,10.3
Iran,Tehran,Asia,9.0|Iraq,Baghdad,Asia,7.7|Saudi Arabia,Riyadh,Asia,7.0
Israel,Jerusalem,Asia,0.97|Jordan,Amman,Asia,4.0|Lebanon,Beirut,Asia,0.43
Syria,Damascus,Asia,2.1|Qatar,Doha,Asia,1.2|Afghanistan,Kabul,Asia,4.6
Georgia,Tbilisi,Asia,1.2|Armenia,Yerevan,Asia,1.1|Egypt,Cairo,Africa,10.2
Morocco,Rabat,Africa,0.58|Algeria,Algiers,Africa,3.0|Tunisia,Tunis,Africa,0.64
Libya,Tripoli,Africa,1.2|Kenya,Nairobi,Africa,4.4|Ethiopia,Addis Ababa,Africa,3.9
Nigeria,Abuja,Africa,1.2|Ghana,Accra,Africa,2.0|Senegal,Dakar,Africa,1.1
South Africa,Pretoria,Africa,0.74|Uganda,Kampala,Africa,1.7|Zambia,Lusaka,Africa,1.7
Canada,Ottawa,North America,1.0|the United States,Washington,North America,0.69
Mexico,Mexico City,North America,9.2|Cuba,Havana,North America,2.1
Jamaica,Kingston,North America,0.67|Costa Rica,San Jose,North America,0.34
Panama,Panama City,North America,0.88|Brazil,Brasilia,South America,3.0
Argentina,Buenos Aires,South America,3.1|Chile,Santiago,South America,6.2
Peru,Lima,South America,9.7|Colombia,Bogota,South America,7.4|Ecuador,Quito,South America,1.9
Bolivia,Sucre,South America,0.3|Uruguay,Montevideo,South America,1.3
Paraguay,Asuncion,South America,0.52|Venezuela,Caracas,South America,1.9
Australia,Canberra,Oceania,0.45|New Zealand,Wellington,Oceania,0.21
"""

COUNTRIES = tuple(
    Country(name, capital, continent, float(population))
    for row in _TABLE.split("\n")
    for cell in row.split("|")
    if cell
    for name, capital, continent, population in [cell.split(",")]
)

ALIASES = {
    "the Netherlands": ("the Netherlands", "Netherlands", "Holland"),
    "the United Kingdom": ("the United Kingdom", "the UK", "UK", "Great Britain"),
    "the United States": ("the United States", "the USA", "USA", "the US", "America"),
    "the Czech Republic": ("the Czech Republic", "Czechia"),
    "the Philippines": ("the Philippines", "Philippines"),
}


def words(text: str) -> tuple[str, ...]:
    """The words of a table, each once."""
    return tuple(dict.fromkeys(text.split()))


NAMES = words(
    """
    Anna Ben Clara David Emma Felix Grace Henry Ida Jack Karen Leo Maria Noah Olivia Paul Quinn
    Rosa Sam Tina Umar Vera Will Xenia Yara Zoe Alice Bob Carol Dan Eve Frank Gina Hugo Iris
    James Kate Liam Mona Nina Oscar Peter Rita Simon Tom Ursula Victor Wendy Yusuf Zach Amir
    Bella Carlos Diana Elena Fatima George Hannah Ivan Julia Kevin Laura Marco Nora Omar Priya
    Raj Sofie Tariq Uma Viktor Wanda Adam Aisha Brian Chloe Dmitri Ella Finn Greta Hassan Ingrid
    Jonas Kim Lena Mateo Nadia Otto Pia Ravi Sara Theo Ulrich Vince Yuki Zara John Mary Michael
    Linda Robert Susan Thomas Lucy Mark Amy Steve Rachel Chris Megan Alex Max Mia Lily Ethan
    Ruby Eric Jane Joe Lisa Nick Ann Luke Sophie
    """
)

WORDS = words(
    """
    apple river stone falcon window garden silver mountain cloud tiger bridge candle forest
    ocean planet rocket shadow thunder violet willow yellow zebra anchor basket castle dragon
    engine feather guitar hammer island jacket kettle ladder marble needle orange pencil quartz
    ribbon saddle tunnel umbrella velvet walnut copper desert ember flower glacier harbor ivory
    jungle kitten lemon meadow nectar olive pepper rabbit salmon temple valley winter amber
    breeze coral diamond eagle fountain ginger honey iceberg jasmine lantern maple night orbit
    pearl quiver raven sunset turtle urchin whale bread butter coffee sugar table chair door
    house road tree bird fish horse cat dog sun moon star sea sand wind rain snow fire water
    earth metal glass paper cotton wool leather spring summer autumn morning evening music song
    dance paint color red blue green black white purple brown pink gray gold small big fast slow
    happy quiet bright dark sweet sour warm cold soft hard clean fresh king queen knight wizard
    farmer baker sailor doctor teacher pilot robot laptop server token cache signal number
    letter word page book story poem key lock box bag cup plate spoon fork knife phone clock
    watch train plane boat car truck bicycle wheel mirror carpet pillow blanket ticket wallet
    hello world alpha beta gamma delta echo bravo tango banana cherry grape mango peach plum
    kiwi onion carrot potato tomato garlic cactus bamboo lotus tulip daisy rose lily oak pine
    cedar birch panda koala lion wolf bear fox deer otter beaver badger hawk owl crow swan goose
    duck frog toad north south east west circle square triangle cube sphere magnet laser comet
    galaxy nebula meteor pirate treasure compass map captain crew storm wave shore cliff cave
    crystal mystery
    """
)

COLORS = words(
    """
    red blue green black white purple brown pink gray gold orange yellow silver
    """
)
COMMON = words(
    """
    the of and to in is you that it he was for on are with as his they at be this from have or
    one had by but not what all were when we there can an your which their said if do will each
    about how up out them then she many some so these would other into has more her two like him
    see time could no make than first been its who now people my made over did down only way
    find use may long little very after called just where most know get through back much before
    go good new write our me man too any day same right look think also around another came come
    work three must because does part even place well such here take why things help put years
    different away again off went old great tell men say every found still between name should
    home give air line set own under read last never us left end along while might next sound
    below saw something thought both few those always show large often together asked world
    going want school until form food keep children feet land side without boy once animals life
    enough took sometimes four head above kind began almost live got earth need far hand high
    year mother light parts country father let night following picture being study second eyes
    soon times story boys since white days ever paper hard near sentence better best across
    during today others however sure means knew try told young miles ways thing whole hear
    example heard several change answer room against top turned learn point city play toward
    five using himself usually quick jumps lazy friend lovely fine maybe please welcome party
    dinner lunch happy
    """
)
SYLLABLES = words(
    """
    ba be bo da de do fa fi ga go ka ke ki ko la le li lo ma me mi mo na ne ni no pa po ra re ri
    ro sa se si so ta te ti to va ve vi wo xa xi ya yo za ze zo zu bra dru fle gro kla mer nor
    plu quo ran sil tor ven wex zan lim dor fen gar hul jin kor lex mun pyx
    """
)
