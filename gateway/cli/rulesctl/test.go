package rulesctl

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/backend/rules/unittest"
	"github.com/palliumhq/pallium/gateway/cli/command"
)

// test runs files of unit tests, without a server.
func (f files) test(*flag.FlagSet) command.Action {
	return func(ctx context.Context, sh *command.Shell, args []string) error {
		failed := 0
		for _, file := range args {
			fmt.Fprintln(sh.Out, file)
			results, err := f.testFile(ctx, file)
			text, n := unittest.Summary(results)
			fmt.Fprint(sh.Out, text)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			failed += n
		}
		if failed > 0 {
			return fmt.Errorf("tests that failed: %d", failed)
		}
		return nil
	}
}

func (f files) testFile(ctx context.Context, file string) ([]unittest.Result, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	tests, err := unittest.Parse(data)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, pattern := range tests.RuleFiles {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(file), pattern)
		}
		found, err := filepath.Glob(pattern)
		if err == nil && len(found) == 0 {
			err = errors.New("no file matches")
		}
		if err != nil {
			return nil, fmt.Errorf("rule_files: %s: %w", pattern, err)
		}
		names = append(names, found...)
	}
	var groups []rules.Group
	for _, name := range names { // read separately, because two files may have groups with the same name
		list, err := f.read([]string{name}, "")
		if err != nil {
			return nil, err
		}
		groups = append(groups, list...)
	}
	return unittest.Run(ctx, tests, groups, f.parser)
}
