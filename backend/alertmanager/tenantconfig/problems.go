package tenantconfig

import (
	"errors"
	"fmt"
	"strings"
)

// maxProblems is the maximum number of problems in an error, and of returned warnings.
const maxProblems = 20

// maxProblemBytes is the maximum length of one problem, which may quote values of the configuration.
const maxProblemBytes = 600

// problems collects the problems of a configuration.
type problems struct {
	list []string
	more int
}

// add adds a problem of the field at a path.
func (p *problems) add(path, format string, args ...any) {
	if len(p.list) == maxProblems {
		p.more++
		return
	}
	text := fmt.Sprintf(format, args...)
	if len(text) > maxProblemBytes {
		text = strings.ToValidUTF8(text[:maxProblemBytes], "") + "..."
	}
	if path != "" {
		text = path + ": " + text
	}
	p.list = append(p.list, text)
}

func (p *problems) count() int { return len(p.list) + p.more }

// err returns an error with one line for each problem, or nil.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	lines := p.list
	if p.more > 0 {
		lines = append(lines[:len(lines):len(lines)], fmt.Sprintf("and %d more problems", p.more))
	}
	return errors.New(strings.Join(lines, "\n"))
}
