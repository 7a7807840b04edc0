package cli

import "flag"

// yesFlag declares the flag of commands that ask for confirmation.
func yesFlag(fs *flag.FlagSet) *bool {
	return fs.Bool("yes", false, "do not ask for confirmation, for scripts")
}
