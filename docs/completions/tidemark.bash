# SPDX-License-Identifier: MIT
# Completion of tidemark(1) for bash. The commands and options are asked of the program itself, so
# they are always those of the version that is installed.

# A file, the folder of a store, or an image in one.
_tidemark_paths() {
	compopt -o filenames 2>/dev/null || true # not at all where a test calls
	mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

_tidemark() {
	local program=${COMP_WORDS[0]} cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]}
	COMPREPLY=()

	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "--help --version $("$program" --help 2>/dev/null |
			sed -n '/^Commands:/,/^$/s/^  \([a-z]\{1,\}\) .*/\1/p')" -- "$cur")
		return
	fi

	case $prev in
	--store | --key-file | -o | --output)
		_tidemark_paths "$cur"
		return
		;;
	--compress)
		mapfile -t COMPREPLY < <(compgen -W 'auto none lz4 zstd' -- "$cur")
		return
		;;
	--backend)
		mapfile -t COMPREPLY < <(compgen -W 'auto uffd-wp soft-dirty' -- "$cur")
		return
		;;
	--if-diverging)
		mapfile -t COMPREPLY < <(compgen -W 'freeze throttle abort' -- "$cur")
		return
		;;
	--kind)
		mapfile -t COMPREPLY < <(compgen -W 'all anonymous file' -- "$cur")
		return
		;;
	--columns)
		mapfile -t COMPREPLY < <(compgen -W "all help $("$program" pages --columns help \
			2>/dev/null | sed 's/ .*//')" -- "${cur^^}")
		return
		;;
	--interval | --count | --mappings | --listen | --max-bandwidth | --max-downtime | --max-rounds | --freeze-timeout | --timeout | --streams | --threads | --delta-cache | --name)
		return
		;;
	esac

	case $cur in
	-*)
		# "--name=NAME" is offered as "--name", and its value is completed as the next word.
		mapfile -t COMPREPLY < <(compgen -W "$("$program" "$command" --help 2>/dev/null |
			sed -n 's/^  \(-., \|    \)\(--[a-z][a-z-]*\).*/\2/p')" -- "$cur")
		return
		;;
	esac

	local pids=''
	case $command in
	check | send | compare | pages | wss)
		pids=$(ps -u "$(id -u)" -o pid= 2>/dev/null)
		;;
	esac
	_tidemark_paths "$cur"
	[ -z "$pids" ] || mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$pids" -- "$cur")
}
complete -F _tidemark tidemark
