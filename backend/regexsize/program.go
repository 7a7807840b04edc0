package regexsize

import "regexp/syntax"

// fragment describes the program of a subexpression: its instructions, and the
// properties that the compiler and the simplifier need in the next step. Counts
// cannot overflow: the parser limits the product of nested repetitions to 1,000,
// and stars at most double the count.
type fragment struct {
	n         int64
	alts      int64     // number of instructions with two branches
	op        syntax.Op // after simplification
	nonGreedy bool
	nullable  bool // matches the empty string, so that a star takes two instructions
}

// program returns the size of the result of syntax.Compile(re.Simplify()). It must
// match both exactly; tests compare it with them.
func program(re *syntax.Regexp) fragment {
	switch re.Op {
	case syntax.OpLiteral:
		return fragment{n: max(1, int64(len(re.Rune))), op: re.Op, nullable: len(re.Rune) == 0}
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL, syntax.OpNoMatch:
		return fragment{n: 1, op: re.Op}
	case syntax.OpCapture:
		sub := program(re.Sub[0])
		return fragment{n: sub.n + 2, alts: sub.alts, op: re.Op, nullable: sub.nullable}
	case syntax.OpConcat:
		return concat(re)
	case syntax.OpAlternate:
		return alternate(re)
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest:
		return unary(re.Op, re.Flags, program(re.Sub[0]))
	case syntax.OpRepeat:
		return repeat(re)
	}
	return fragment{n: 1, op: re.Op, nullable: true} // the empty match, and assertions
}

func concat(re *syntax.Regexp) fragment {
	f := fragment{op: re.Op, nullable: true}
	for _, s := range re.Sub {
		sub := program(s)
		f.n += sub.n
		f.alts += sub.alts
		f.nullable = f.nullable && sub.nullable
	}
	f.n = max(1, f.n)
	return f
}

func alternate(re *syntax.Regexp) fragment {
	more := max(0, int64(len(re.Sub))-1)
	f := fragment{op: re.Op, n: more, alts: more}
	for _, s := range re.Sub {
		sub := program(s)
		f.n += sub.n
		f.alts += sub.alts
		f.nullable = f.nullable || sub.nullable
	}
	return f
}

// unary returns a star, plus or question mark of a simplified subexpression.
func unary(op syntax.Op, fl syntax.Flags, sub fragment) fragment {
	nonGreedy := fl&syntax.NonGreedy != 0
	if sub.op == syntax.OpEmptyMatch || sub.op == op && sub.nonGreedy == nonGreedy {
		return sub
	}
	f := fragment{n: sub.n + 1, alts: sub.alts + 1, op: op, nonGreedy: nonGreedy, nullable: true}
	switch op {
	case syntax.OpPlus:
		f.nullable = sub.nullable
	case syntax.OpStar:
		if sub.nullable {
			f.n, f.alts = f.n+1, f.alts+1 // becomes (x+)?
		}
	}
	return f
}

// repeat returns x{n}, x{n,} or x{n,m}. The last one becomes xx(x(x)?)?.
func repeat(re *syntax.Regexp) fragment {
	least, most := int64(re.Min), int64(re.Max)
	if most == 0 {
		return fragment{n: 1, op: syntax.OpEmptyMatch, nullable: true}
	}
	sub := program(re.Sub[0])
	switch {
	case most < 0 && least == 0:
		return unary(syntax.OpStar, re.Flags, sub)
	case most < 0 && least == 1:
		return unary(syntax.OpPlus, re.Flags, sub)
	case most < 0:
		last := unary(syntax.OpPlus, re.Flags, sub)
		return fragment{
			n:        (least-1)*sub.n + last.n,
			alts:     (least-1)*sub.alts + last.alts,
			op:       syntax.OpConcat,
			nullable: sub.nullable && last.nullable,
		}
	case least == 1 && most == 1:
		return sub
	case least == most:
		return fragment{n: least * sub.n, alts: least * sub.alts, op: syntax.OpConcat, nullable: sub.nullable}
	}
	last := unary(syntax.OpQuest, re.Flags, sub)
	if nested := most - least - 1; nested > 0 {
		last = fragment{
			n:         last.n + nested*(sub.n+1),
			alts:      last.alts + nested*(sub.alts+1),
			op:        syntax.OpQuest,
			nonGreedy: re.Flags&syntax.NonGreedy != 0,
			nullable:  true,
		}
	}
	if least == 0 {
		return last
	}
	return fragment{n: least*sub.n + last.n, alts: least*sub.alts + last.alts, op: syntax.OpConcat, nullable: sub.nullable && last.nullable}
}
