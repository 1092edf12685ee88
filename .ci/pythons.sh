# What the scripts of this folder share.

# The program of a version, by name or among those of pyenv.
find_python() {
  local found
  for found in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
    if [ -x "$found" ] && "$found" -c "import sys; assert '%d.%d' % sys.version_info[:2] == '$1'" 2>/dev/null; then
      echo "$found"
      return
    fi
  done
  echo "Python $1 is missing: install it with pyenv install $1" >&2
  return 1
}
