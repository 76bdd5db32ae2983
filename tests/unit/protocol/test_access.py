from tailrace.protocol.access import ADMIN, OPEN, RUN, SCOPES, WATCH, Access


def test_what_a_principal_may() -> None:
    ada = Access.of("ada", [WATCH])
    assert ada.may(WATCH)
    assert not ada.may(RUN)
    assert ada.sees == "ada"


def test_admin_may_all_and_sees_everybody_s() -> None:
    root = Access.of("root", [ADMIN])
    assert all(map(root.may, SCOPES))
    assert root.sees is None


def test_unless_said_otherwise_everything_of_ones_own() -> None:
    for access in (Access.of("ada"), OPEN):
        assert all(map(access.may, SCOPES[:-1]))
        assert not access.may(ADMIN)
        assert access.sees == access.principal
