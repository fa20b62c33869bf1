# Completion of ckpt's verbs and options in bash; they come from ckpt itself.
# shellcheck shell=bash
_ckpt() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb='' i words
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --store | --remote)
            i=$((i + 1))
            # bash splits words at : and =, also that of a URL
            [[ ${COMP_WORDS[i]} != = ]] || i=$((i + 1))
            while [[ ${COMP_WORDS[i + 1]-} == [:=]* ]]; do
                i=$((i + 2))
            done
            ;;
        -*) ;;
        *)
            verb=${COMP_WORDS[i]}
            break
            ;;
        esac
    done
    case $before in
    --store | --remote | --to | --dir | --socket | --local | --layout | --svg)
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    esac
    if [[ $verb && $word != -* ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
    fi
    words=$(ckpt help --words ${verb:+"$verb"} 2>/dev/null) || return
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _ckpt ckpt
