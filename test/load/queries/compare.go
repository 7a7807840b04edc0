package main

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// tolerance is the maximum relative difference of values that count as near: Prometheus does
// not specify the order in which it adds values of series.
const tolerance = 1e-9

// alike is the result of a comparison of two responses; larger is worse.
type alike int

const (
	exact alike = iota
	near
	different
)

// agree compares the data of two responses. Series may be in any order.
func agree(a, b []byte) (alike, error) {
	x, err := decode(a)
	if err != nil {
		return different, err
	}
	y, err := decode(b)
	if err != nil {
		return different, err
	}
	return compare(x, y), nil
}

func decode(body []byte) (any, error) {
	var response struct {
		Data struct{ Result []map[string]any }
	}
	if err := json.Unmarshal(body, &response); err != nil {
		return nil, err
	}
	slices.SortFunc(response.Data.Result, func(a, b map[string]any) int {
		return slices.Compare([]byte(fmt.Sprint(a["metric"])), []byte(fmt.Sprint(b["metric"]))) // maps are printed in order
	})
	list := make([]any, len(response.Data.Result))
	for i, one := range response.Data.Result {
		list[i] = one
	}
	return list, nil
}

func compare(a, b any) alike {
	switch x := a.(type) {
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return different
		}
		worst := exact
		for i := range x {
			worst = max(worst, compare(x[i], y[i]))
		}
		return worst
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return different
		}
		worst := exact
		for k := range x {
			worst = max(worst, compare(x[k], y[k]))
		}
		return worst
	case string:
		y, ok := b.(string)
		if !ok {
			return different
		}
		return compareText(x, y)
	}
	if a == b {
		return exact
	}
	return different
}

func compareText(a, b string) alike {
	if a == b {
		return exact
	}
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	if errX == nil && errY == nil && math.Abs(x-y) <= tolerance*max(math.Abs(x), math.Abs(y)) {
		return near
	}
	return different
}
