"""The people of the built-in database. They are invented: nobody of these names is meant."""

from __future__ import annotations

from typing import Final, NamedTuple

FIRST_YEAR: Final = 2020
LAST_YEAR: Final = 2025
"""The years of which there are salaries."""

DEPARTMENTS: Final = (
    ("Engineering", "Rotterdam"),
    ("Sales", "Lyon"),
    ("Marketing", "Lyon"),
    ("Finance", "Kraków"),
    ("Operations", "Porto"),
    ("Human Resources", "Rotterdam"),
)
"""Each with the city it is in."""


class Employee(NamedTuple):
    """`salaries`: in euros a year, by year, as far as there are any."""

    name: str
    department: str
    title: str
    hired: int
    salaries: dict[int, int]


def staff() -> list[Employee]:
    """Everybody, in the order of their numbers, which count from 1."""
    return [_employee(line) for line in _TABLE.strip().splitlines()]


def _employee(line: str) -> Employee:
    department, name, title, hired, salary, raises = (piece.strip() for piece in line.split("|"))
    year = max(int(hired), FIRST_YEAR)
    salaries = {year: int(salary)}
    for percent in raises.split():
        # To ten euros, as salaries are agreed on; the percentage stays what it is, to one decimal.
        salaries[year + 1] = 10 * round(salaries[year] * (1 + float(percent) / 100) / 10)
        year += 1
    return Employee(name, department, title, int(hired), salaries)


# Department, name, title, year of hiring, salary in the first year there is one of, and the raises
# of the years after it, in percent.
_TABLE: Final = """
Engineering | Amara Okonjo-Bell | Head of engineering | 2016 | 120800 | 9.4 3.5 15.3 5.8 4.9
Engineering | Tomasz Wierzba | Staff engineer | 2012 | 89500 | 3.3 1.8 8.3 1.4 9.1
Engineering | Leilani Kahue | Staff engineer | 2018 | 88700 | 5.2 1.7 6.4 5.8 1.1
Engineering | Devika Ramanujar | Senior engineer | 2022 | 77300 | 7.8 0.0 8.0
Engineering | Jonas Feldkamp | Senior engineer | 2016 | 75800 | 7.9 1.6 7.7 1.6 15.2
Engineering | Mei-Lin Zhuo | Senior engineer | 2022 | 75600 | 7.1 4.5 0.0
Engineering | Farid Haddadin | Senior engineer | 2015 | 80200 | 15.1 4.4 0.0 6.5 9.7
Engineering | Ingrid Solvang | Senior engineer | 2019 | 85000 | 9.1 4.7 5.1 5.5 5.0
Engineering | Kwabena Asamoah-Rey | Engineer | 2021 | 66600 | 8.9 3.0 5.8 14.5
Engineering | Paloma Iturralde | Engineer | 2014 | 67900 | 7.1 1.4 4.4 1.5 1.5
Engineering | Hiroto Minazuki | Engineer | 2012 | 62800 | 0.0 3.5 4.3 11.9 2.2
Engineering | Siobhan Garrity | Engineer | 2021 | 66000 | 0.0 0.0 3.9 4.8
Engineering | Anatol Breznik | Engineer | 2019 | 66900 | 0.0 4.8 0.0 5.3 8.1
Engineering | Noor Alkhatabi | Engineer | 2017 | 65800 | 2.1 5.5 10.4 8.0 3.3
Engineering | Esteban Rovira | Engineer | 2020 | 67400 | 7.2 5.7 9.4 6.9 0.0
Engineering | Chidinma Uzokwe | Engineer | 2025 | 68300 |
Sales | Marisol Quintanar | Head of sales | 2010 | 104500 | 1.9 2.8 12.4 6.7 14.5
Sales | Dmitri Volkonin | Senior account executive | 2017 | 66000 | 1.9 4.0 0.0 6.7 1.9
Sales | Aaliyah Brockman | Senior account executive | 2019 | 71600 | 15.9 9.1 13.1 9.9 8.8
Sales | Rohan Deshpandey | Senior account executive | 2021 | 72200 | 1.5 9.2 2.4 15.9
Sales | Clara Nyström | Senior account executive | 2021 | 77600 | 3.9 8.4 10.9 1.2
Sales | Ousmane Diagana | Account executive | 2015 | 53200 | 3.0 2.8 4.5 4.4 9.5
Sales | Tamsin Whitlock | Account executive | 2023 | 51200 | 4.9 10.0
Sales | Yusuf Karadeniz-Ay | Account executive | 2016 | 52100 | 4.9 3.0 2.5 8.6 4.5
Sales | Lucia Ferrantini | Account executive | 2024 | 56500 | 7.1
Sales | Sanjay Mukherji-Rao | Account executive | 2014 | 54000 | 8.8 1.6 2.1 2.6 0.0
Sales | Hanneke Vroom | Account executive | 2023 | 57900 | 3.1 8.5
Sales | Malik Ferreira | Account executive | 2025 | 58200 |
Marketing | Priya Venkataswami | Head of marketing | 2016 | 87900 | 13.1 15.2 3.0 9.8 6.8
Marketing | Søren Dahlgaard | Brand strategist | 2016 | 61200 | 2.5 4.6 5.6 0.0 7.5
Marketing | Odette Lacombe | Brand strategist | 2009 | 60800 | 2.6 13.3 9.4 2.6 8.5
Marketing | Kenji Arisugawa | Brand strategist | 2014 | 69300 | 5.5 7.8 5.8 15.8 3.1
Marketing | Zofia Wrzosek | Content editor | 2019 | 51300 | 4.1 5.8 0.0 1.1 0.0
Marketing | Emeka Nwanyeri | Content editor | 2016 | 52900 | 2.2 8.1 15.6 0.0 5.1
Marketing | Beatriz Caldeirão | Content editor | 2020 | 52700 | 5.8 8.6 1.2 6.1 9.7
Marketing | Callum Strachan | Content editor | 2023 | 50100 | 4.3 3.7
Finance | Vikram Chaudharan | Head of finance | 2016 | 113400 | 6.6 1.6 8.6 5.9 1.9
Finance | Annelise Grauberg | Controller | 2009 | 70100 | 15.5 13.9 2.1 4.0 5.6
Finance | Thabo Mokoenane | Controller | 2024 | 69100 | 7.5
Finance | Rosalind Peverell | Accountant | 2019 | 56200 | 6.0 12.2 4.8 8.9 4.8
Finance | Mateo Arizmendi | Accountant | 2016 | 59700 | 1.3 4.7 3.9 2.2 15.0
Finance | Halima Sesay-Kone | Accountant | 2016 | 58700 | 2.2 2.8 2.2 0.0 0.0
Finance | Piotr Jasny | Accountant | 2009 | 56500 | 2.1 6.4 8.2 15.2 4.5
Finance | Fumiko Tachikawa-Lee | Accountant | 2023 | 51500 | 9.8 13.3
Operations | Goran Petrovac | Head of operations | 2010 | 97100 | 0.0 1.4 2.3 0.0 0.0
Operations | Nadia Belkacemi | Site lead | 2012 | 72400 | 14.0 0.0 7.2 3.2 9.0
Operations | Tavita Leaupepe | Site lead | 2022 | 62000 | 6.2 2.8 0.0
Operations | Ewa Sobieralska | Site lead | 2009 | 71100 | 9.0 5.4 13.6 7.7 8.0
Operations | Desmond Achterberg | Site lead | 2020 | 64200 | 1.2 15.8 8.6 9.5 2.9
Operations | Imani Kiprotich | Logistics planner | 2016 | 48400 | 1.8 4.4 8.5 8.6 5.3
Operations | Lars Ekengren | Logistics planner | 2023 | 50700 | 3.0 5.1
Operations | Ximena Barrientos | Logistics planner | 2023 | 44100 | 2.8 6.1
Operations | Bao Trankhanh | Logistics planner | 2009 | 47000 | 4.1 6.5 2.7 0.0 11.4
Operations | Colette Marchandeau | Logistics planner | 2015 | 51400 | 4.2 2.8 7.0 0.0 7.3
Operations | Arvid Holmqvist | Logistics planner | 2020 | 48200 | 7.4 1.4 1.9 9.8 4.5
Operations | Shanthi Kumarasena | Logistics planner | 2015 | 46600 | 0.0 2.0 9.8 11.5 2.6
Operations | Olivier Descharnes | Logistics planner | 2025 | 51500 |
Human Resources | Miriam Goldwasser | Head of people | 2016 | 89000 | 0.0 2.7 3.9 1.3 1.7
Human Resources | Tenzin Lhamo-Dorje | Recruiter | 2014 | 48400 | 11.1 1.9 5.1 1.9 4.6
Human Resources | Joaquim Sardinha | Recruiter | 2022 | 55700 | 2.8 9.3 1.2
Human Resources | Fiona MacAskrill | Recruiter | 2018 | 48400 | 2.6 3.5 7.8 8.6 8.5
"""
