"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """One line that names the file, line or field at fault and says what to do about it."""
