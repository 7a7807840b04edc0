package regexsize

import "regexp/syntax"

// The compiler tries to turn a program of fewer than 1,000 instructions into one
// that needs no backtracking. After each rune instruction it merges the runes of
// all alternatives that can follow, so that the cost of a?b?c?... is cubic in its
// length: 480 classes take more than a second and a gigabyte.
const (
	onePassMost  = 1000 // the compiler does not try it with at least this many instructions
	onePassFree  = 8    // number of alternatives up to which the cost is negligible
	rangesInUnit = 12   // ranges merged that count as one instruction
	rangesFree   = 4096 // ranges merged that are free
)

// onePass returns the cost, in instructions, of the ranges merged in that attempt.
// It builds the program, which is small at this point.
func onePass(re *syntax.Regexp, f fragment) int64 {
	if f.n >= onePassMost || f.alts <= onePassFree {
		return 0
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return 0
	}
	m := &merger{prog: prog, seen: make([]int, len(prog.Inst)), ranges: make([]int64, len(prog.Inst))}
	m.from(prog.Start)
	for i := range prog.Inst {
		if m.shared {
			break
		}
		switch prog.Inst[i].Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			m.from(int(prog.Inst[i].Out))
		}
	}
	return max(0, m.merged-rangesFree) / rangesInUnit
}

// merger walks a program from one instruction to the next rune instructions.
type merger struct {
	prog   *syntax.Prog
	round  int
	seen   []int   // round in which an instruction was reached
	ranges []int64 // ranges merged at an instruction
	merged int64
	shared bool // two paths lead to one rune: the compiler stops there
}

func (m *merger) from(pc int) {
	m.round++
	m.walk(pc)
}

func (m *merger) walk(pc int) int64 {
	if m.seen[pc] == m.round {
		m.shared = m.shared || m.ranges[pc] > 0
		return 0
	}
	m.seen[pc], m.ranges[pc] = m.round, 0
	inst := &m.prog.Inst[pc]
	var n int64
	switch inst.Op {
	case syntax.InstAlt, syntax.InstAltMatch:
		n = m.walk(int(inst.Out)) + m.walk(int(inst.Arg))
	case syntax.InstCapture, syntax.InstNop, syntax.InstEmptyWidth:
		n = m.walk(int(inst.Out))
	case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		n = int64(len(inst.Rune)+3) / 2
	}
	m.ranges[pc] = n
	m.merged += n
	return n
}
