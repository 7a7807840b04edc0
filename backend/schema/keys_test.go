package schema

import (
	"encoding/hex"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
)

// maxKey is the length in bytes that every row store accepts for a key.
const maxKey = 4 << 10

var testID = ulid.MustParse("01HZX5K3T0ABCDEFGHJKMNPQRS")

// TestKeyBytes checks the exact bytes of keys and qualifiers, which existing stores contain.
func TestKeyBytes(t *testing.T) {
	v := Version{Generation: 2, Attempt: 0x0102030405060708}
	for _, c := range []struct{ what, got, want string }{
		{"catalog", CatalogKey("a1", 20000), "01 6131 00 43 00004e20"},
		{"names", NamesKey("a1", 20000), "01 6131 00 44 00004e20"},
		{"pages", PagesKey("a1", "up", 20000), "01 6131 00 4d 7570 0001 00004e20"},
		{"pages, escaped", PagesKey("a1", "u\x00p", 1), "01 6131 00 4d 75 00ff 70 0001 00000001"},
		{"values", ValuesKey("a1", "job", MaxDay), "01 6131 00 56 6a6f62 0001 7fffffff"},
		{"tenant", TenantKey("a1"), "01 6131 00 54"},
		{"work", WorkKey(0), "01 00 57 00000000"},
		{"garbage", GarbageKey(258, "x/y"), "01 00 47 0000000000000102 782f79"},
		{"lease", LeaseKey("sweep"), "01 00 4c 7377656570"},
		{"erasure", ErasureKey("a1"), "01 00 45 6131"},
		{"rules", RulesKey("a1"), "01 6131 00 52"},
		{"tenants with rules", RuledKey(), "01 00 52"},
		{"group of rules", RuleGroupQualifier("n/1", "g"), "672f 6e2f31 00 67"},
		{"version of rules", string(RulesVersion{3, 0x0102030405060708}.Encode()), "0000000000000003 0102030405060708"},
		{"backfill of a group", BackfillQualifier("n/1", "g"), "622f 6e2f31 00 67"},
		{"Alertmanager", AlertmanagerKey("a1"), "01 6131 00 41"},
		{"silences", SilencesKey("a1"), "01 6131 00 53"},
		{"notification", NotificationKey("a1", "{}:{}", "r", "webhook", 1), "01 6131 00 4e c5fbb73122340dbd11150091ca169c4e"},
		{"share", ShareKey(258), "01 00 50 0102"},
		{"page", PageQualifier(v, 3, 4), "fffffffd 0102030405060708 70 0003 0004"},
		{"summaries", SummariesQualifier(v, 3), "fffffffd 0102030405060708 68 0003"},
		{"names cell", NamesQualifier(v, 3), "fffffffd 0102030405060708 6e 0003"},
		{"values cell", ValuesQualifier(v, 3, 65535), "fffffffd 0102030405060708 76 0003 ffff"},
		{"l0", L0Qualifier(testID), "6c302f" + hex.EncodeToString(testID[:])},
		{"intent", IntentQualifier(11, "ing-1"), "692f 0b 696e672d31"},
		{"aside", AsideQualifier(11, "ing-1", "a1"), "612f 0b 696e672d31 2f 6131"},
		{"tombstone", TombstoneQualifier(7), "742f 0000000000000007"},
		{"pending", PendingQualifier(7), "702f 0000000000000007"},
		{"rewrite", RewriteQualifier("a1"), "642f 6131"},
		{"clean", CleanQualifier("a1"), "632f 6131"},
	} {
		want := strings.ReplaceAll(c.want, " ", "")
		if got := hex.EncodeToString([]byte(c.got)); got != want {
			t.Errorf("%s: %s, want %s", c.what, got, want)
		}
	}
	// The first bytes of the SHA-256 of "m" repeated 1,025 times.
	const sum = "74d015c07e6510d2e6766d487fda84b0"
	want := "016131004d" + strings.Repeat("6d", maxText) + "00ff" + sum + "0001" + "00000001"
	if got := hex.EncodeToString([]byte(PagesKey("a1", strings.Repeat("m", maxText+1), 1))); got != want {
		t.Errorf("key of a long name is %s", got)
	}
}

func TestParseKey(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	for key, want := range map[string]Key{
		CatalogKey("a", 5):                           {Row: RowCatalog, Tenant: "a", Day: 5},
		NamesKey("a", MaxDay):                        {Row: RowNames, Tenant: "a", Day: MaxDay},
		PagesKey("a", "m\x00\x01", 5):                {Row: RowPages, Tenant: "a", Day: 5, Name: "m\x00\x01"},
		PagesKey("a", long, 5):                       {Row: RowPages, Tenant: "a", Day: 5, Cut: true},
		PagesKey("a", long[:maxText], 5):             {Row: RowPages, Tenant: "a", Day: 5, Name: long[:maxText]},
		PagesKey("a", "", 5):                         {Row: RowPages, Tenant: "a", Day: 5},
		ValuesKey("a", "l", 0):                       {Row: RowValues, Tenant: "a", Name: "l"},
		TenantKey("a"):                               {Row: RowTenant, Tenant: "a"},
		WorkKey(5):                                   {Row: RowWork, Day: 5},
		GarbageKey(77, "a\x00b"):                     {Row: RowGarbage, Due: 77, Name: "a\x00b"},
		GarbageKey(-77, "n"):                         {Row: RowGarbage, Name: "n"},
		LeaseKey("l"):                                {Row: RowLease, Name: "l"},
		ErasureKey("a"):                              {Row: RowErasure, Name: "a"},
		RulesKey("a"):                                {Row: RowRules, Tenant: "a"},
		RuledKey():                                   {Row: RowRules},
		AlertmanagerKey("a"):                         {Row: RowAlertmanager, Tenant: "a"},
		SilencesKey("a"):                             {Row: RowSilences, Tenant: "a"},
		NotificationPrefix("a") + "0123456789abcdef": {Row: RowNotification, Tenant: "a", Name: "0123456789abcdef"},
		ShareKey(65535):                              {Row: RowShare, Share: 65535},
	} {
		if got, ok := ParseKey(key); !ok || got != want {
			t.Errorf("ParseKey(%q) = %+v, %v, want %+v", key, got, ok, want)
		}
	}
	for _, key := range []string{
		"", "\x01", "\x02a\x00C\x00\x00\x00\x00", "\x01a", "\x01a\x00", "\x01a\x00C", "\x01a\x00C\x00\x00\x00", "\x01a/b\x00T", "\x01..\x00T",
		CatalogKey("a", 5) + "x", CatalogKey("a", -1), CatalogKey("a", MaxDay+1), CatalogKey("a", 1<<32+5), TenantKey("a") + "x",
		"\x01a\x00W\x00\x00\x00\x00", "\x01\x00C\x00\x00\x00\x00", "\x01\x00X", "\x01\x00P\x00", "\x01\x00P\x00\x00\x00", "\x01a\x00P\x00\x00", "\x01\x00G1234567", "\x01\x00G\xff1234567name",
		RulesKey("a") + "x", RuledKey() + "x", AlertmanagerKey("a") + "x", SilencesKey("a") + "x", NotificationPrefix("a"), "\x01\x00A",
		"\x01a\x00Mm\x00\x02\x00\x00\x00\x00", "\x01a\x00Mm", "\x01a\x00Mm\x00", "\x01a\x00M" + long + "\x00\x01\x00\x00\x00\x00",
	} {
		if got, ok := ParseKey(key); ok {
			t.Errorf("ParseKey(%q) = %+v, want false", key, got)
		}
	}
	if _, _, ok := ParseCatalogKey(NamesKey("a", 5)); ok {
		t.Error("ParseCatalogKey accepts the key of a names row")
	}
	if _, _, _, ok := ParsePagesKey(ValuesKey("a", "x", 5)); ok {
		t.Error("ParsePagesKey accepts the key of a values row")
	}
	if k, ok := ParseKey(GarbageKey(9, "o")); k.Row != RowGarbage || k.Due != 9 || k.Name != "o" || !ok {
		t.Errorf("ParseKey = %+v, %v", k, ok)
	}
}

// TestRanges compares ranges with a search of all keys, for days at all boundaries.
func TestRanges(t *testing.T) {
	edges := []int64{math.MinInt64, -1, 0, 1, 19999, 20000, 20001, MaxDay - 1, MaxDay, MaxDay + 1, 1<<32 - 1, 1 << 32, 1<<32 + 1, math.MaxInt64}
	kinds := map[string]struct {
		key   func(int64) string
		bound func(int64, int64) (string, string)
	}{
		"catalog": {func(d int64) string { return CatalogKey("a", d) }, func(f, l int64) (string, string) { return CatalogRange("a", f, l) }},
		"names":   {func(d int64) string { return NamesKey("a", d) }, func(f, l int64) (string, string) { return NamesRange("a", f, l) }},
		"pages":   {func(d int64) string { return PagesKey("a", "m", d) }, func(f, l int64) (string, string) { return PagesRange("a", "m", f, l) }},
		"values":  {func(d int64) string { return ValuesKey("a", "l", d) }, func(f, l int64) (string, string) { return ValuesRange("a", "l", f, l) }},
	}
	others := []string{TenantKey("a"), CatalogKey("a!", 1), CatalogKey("a", -1), PagesKey("a", "m2", 1), PagesKey("a", "m\x00", 1), PagesKey("a", "", 1), ValuesKey("a", "l2", 1), WorkKey(1)}
	for what, kind := range kinds {
		for _, first := range edges {
			for _, last := range edges {
				start, end := kind.bound(first, last)
				if end == "" || len(end) > maxKey {
					t.Fatalf("%s: range of days %d to %d ends at %q", what, first, last, end)
				}
				for _, d := range edges {
					key := kind.key(d)
					want := d >= first && d <= last && d >= 0 && d <= MaxDay
					if got := key >= start && key < end; got != want {
						t.Errorf("%s: day %d in range of %d to %d: %v, want %v", what, d, first, last, got, want)
					}
				}
				for _, key := range others {
					if key >= start && key < end {
						t.Errorf("%s: range of days %d to %d has the row %q", what, first, last, key)
					}
				}
			}
		}
	}
}

func TestSystemRanges(t *testing.T) {
	start, end := WorkRange()
	for _, d := range []int64{0, 20000, MaxDay} {
		if key := WorkKey(d); key < start || key >= end {
			t.Errorf("work of day %d is not in the range of work", d)
		}
	}
	for _, key := range []string{LeaseKey("z"), GarbageKey(0, ""), CatalogKey("a", 0)} {
		if key >= start && key < end {
			t.Errorf("%q is in the range of work", key)
		}
	}
	times := []int64{math.MinInt64, -1, 0, 1, 1000, math.MaxInt64}
	for _, now := range times {
		start, end := GarbageRange(now)
		for _, due := range times {
			key := GarbageKey(due, "\xff\xff")
			if got, want := key >= start && key < end, max(due, 0) <= max(now, 0); got != want {
				t.Errorf("garbage due at %d at time %d: %v", due, now, got)
			}
		}
	}
}

// randomName returns a random name, often with escaped bytes or a length close to maxText.
func randomName(rng *rand.Rand) string {
	n := rng.IntN(6)
	if rng.IntN(4) == 0 {
		n = maxText - 2 + rng.IntN(5)
	}
	alphabet := []byte{0, 1, 'a', 'b', 0xfe, 0xff}
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[rng.IntN(len(alphabet))]
	}
	return string(b)
}

// TestNamesInKeys checks that different names have different keys in the order of the names.
func TestNamesInKeys(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, 0))
	long := strings.Repeat("\x00", 3*maxText)
	sum := text(long) // a name constructed to look like a truncated one
	plain, _, _, _ := parseText(sum)
	names := []string{"", "\x00", "\x00\x01", "\x00\xff", long, long[:maxText], long[:maxText+1], long + "\x00", plain,
		strings.ReplaceAll(strings.TrimSuffix(sum, "\x00\x01"), "\x00\xff", "\x00")}
	for range 1500 {
		names = append(names, randomName(rng))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	keys := map[string]string{}
	short := ""
	for i, n := range names {
		key := PagesKey(tenant.ID(strings.Repeat("t", tenant.MaxIDLength)), n, 1)
		if len(key) > maxKey {
			t.Fatalf("key of a name of %d bytes has %d", len(n), len(key))
		}
		if other, ok := keys[key]; ok {
			t.Fatalf("seed %d: %q and %q have the same key", seed, n, other)
		}
		keys[key] = n
		_, got, _, ok := ParsePagesKey(key)
		if want := n; len(n) > maxText && got != "" || len(n) <= maxText && got != want || !ok {
			t.Fatalf("seed %d: key of %q reads as %q, %v", seed, n, got, ok)
		}
		if len(n) > maxText {
			continue
		}
		if i > 0 && short != "" && key <= short {
			t.Fatalf("seed %d: key of %q does not sort after those of smaller names", seed, n)
		}
		short = key
	}
}

func TestTenantsKeepApart(t *testing.T) {
	for _, other := range []tenant.ID{"a!", "aa", "a.", "b", "A"} {
		for _, key := range []string{CatalogKey(other, 1), NamesKey(other, 1), PagesKey(other, "m", 1), ValuesKey(other, "l", 1), TenantKey(other)} {
			if strings.HasPrefix(key, TenantPrefix("a")) {
				t.Errorf("key %q has the prefix of tenant a", key)
			}
		}
	}
	for _, key := range []string{WorkKey(1), GarbageKey(1, "a"), LeaseKey("a")} {
		if strings.HasPrefix(key, TenantPrefix("a")) {
			t.Errorf("key %q has the prefix of tenant a", key)
		}
	}
}

func TestTenantOf(t *testing.T) {
	ids := []tenant.ID{"!", "0", "a", "zz", tenant.ID(strings.Repeat("z", tenant.MaxIDLength))}
	for _, id := range ids {
		for _, key := range []string{CatalogKey(id, 1), PagesKey(id, strings.Repeat("m", 2000), 1), TenantKey(id)} {
			if got, ok := TenantOf(key); got != id || !ok {
				t.Errorf("tenant of %q is %q, %v", key, got, ok)
			}
			if key < FirstTenant || key >= EndOfTenants {
				t.Errorf("%q is not in the range of tenants", key)
			}
		}
	}
	for _, key := range []string{WorkKey(MaxDay), GarbageKey(math.MaxInt64, "g"), LeaseKey("\xff"), ErasureKey("a"), "\x02a"} {
		if got, ok := TenantOf(key); ok {
			t.Errorf("tenant of %q is %q", key, got)
		}
		if key >= FirstTenant && key < EndOfTenants {
			t.Errorf("%q is in the range of tenants", key)
		}
	}
}

func TestQualifiers(t *testing.T) {
	v := Version{Generation: 9, Attempt: 1<<64 - 1}
	for q, want := range map[string][3]int{
		PageQualifier(v, 1, 65535): {KindPage, 1, 65535},
		SummariesQualifier(v, 2):   {KindSummaries, 2, 0},
		NamesQualifier(v, 65535):   {KindNames, 65535, 0},
		ValuesQualifier(v, 0, 7):   {KindValues, 0, 7},
	} {
		got, kind, part, index, ok := ParseQualifier(q)
		if !ok || got != v || [3]int{int(kind), part, index} != want {
			t.Errorf("ParseQualifier(%q) = %v, %c, %d, %d, %v", q, got, kind, part, index, ok)
		}
		if !strings.HasPrefix(q, v.Prefix()) {
			t.Errorf("%q does not begin with its version", q)
		}
		for _, bad := range []string{q[:len(q)-1], q + "x", q[:12] + "z" + q[13:]} {
			if _, _, _, _, ok := ParseQualifier(bad); ok {
				t.Errorf("ParseQualifier accepts %q", bad)
			}
		}
	}
	inOrder := []string{
		SummariesQualifier(Version{Generation: math.MaxUint32}, 0), SummariesQualifier(Version{3, 5}, 0), SummariesQualifier(Version{3, 5}, 1),
		PageQualifier(Version{3, 5}, 0, 0), PageQualifier(Version{3, 5}, 0, 256), PageQualifier(Version{3, 5}, 1, 0), SummariesQualifier(Version{3, 6}, 0),
		SummariesQualifier(Version{2, 0}, 0), PageQualifier(Version{1, 0}, 0, 0),
	}
	if !slices.IsSorted(inOrder) {
		t.Error("qualifiers do not sort newest generation first, summaries before pages")
	}
	if id, ok := ParseL0Qualifier(L0Qualifier(testID)); !ok || id != testID {
		t.Errorf("ParseL0Qualifier = %s, %v", id, ok)
	}
	if id, ok := ParseReceiptQualifier(ReceiptQualifier(testID)); !ok || id != testID {
		t.Errorf("ParseReceiptQualifier = %s, %v", id, ok)
	}
	if _, ok := ParseReceiptQualifier(L0Qualifier(testID)); ok {
		t.Error("ParseReceiptQualifier accepts the qualifier of an L0 cell")
	}
	if w, ing, ok := ParseIntentQualifier(IntentQualifier(11, "i/\x00")); w != 11 || ing != "i/\x00" || !ok {
		t.Errorf("ParseIntentQualifier = %d, %q, %v", w, ing, ok)
	}
	for _, bad := range []string{"", "i/", "i/\x01", "i/\x0cx", "r/\x01x"} {
		if _, _, ok := ParseIntentQualifier(bad); ok {
			t.Errorf("ParseIntentQualifier accepts %q", bad)
		}
	}
	if w, ing, id, ok := ParseAsideQualifier(AsideQualifier(11, "i~lost-1", "a.b")); w != 11 || ing != "i~lost-1" || id != "a.b" || !ok {
		t.Errorf("ParseAsideQualifier = %d, %q, %q, %v", w, ing, id, ok)
	}
	for _, bad := range []string{"", "a/", "a/\x01", "a/\x01i", "a/\x01i/", "a/\x01/t", "a/\x0ci/t", "a/\x01i/t/u", "i/\x01i/t"} {
		if _, _, _, ok := ParseAsideQualifier(bad); ok {
			t.Errorf("ParseAsideQualifier accepts %q", bad)
		}
	}
	if got := v.String(); got != "9-ffffffffffffffff" {
		t.Errorf("version is %q", got)
	}
}

// build returns the key from which k was parsed.
func (k Key) build() string {
	switch k.Row {
	case RowCatalog:
		return CatalogKey(k.Tenant, k.Day)
	case RowNames:
		return NamesKey(k.Tenant, k.Day)
	case RowPages:
		return PagesKey(k.Tenant, k.Name, k.Day)
	case RowValues:
		return ValuesKey(k.Tenant, k.Name, k.Day)
	case RowTenant:
		return TenantKey(k.Tenant)
	case RowWork:
		return WorkKey(k.Day)
	case RowGarbage:
		return GarbageKey(k.Due, k.Name)
	case RowRules:
		if k.Tenant == "" {
			return RuledKey()
		}
		return RulesKey(k.Tenant)
	case RowAlertmanager:
		return AlertmanagerKey(k.Tenant)
	case RowSilences:
		return SilencesKey(k.Tenant)
	case RowNotification:
		return NotificationPrefix(k.Tenant) + k.Name
	case RowErasure:
		return ErasureKey(tenant.ID(k.Name))
	case RowShare:
		return ShareKey(k.Share)
	default:
		return LeaseKey(k.Name)
	}
}

func FuzzParseKey(f *testing.F) {
	for _, key := range []string{CatalogKey("a", 1), PagesKey("a", "m\x00", 1), PagesKey("a", strings.Repeat("\x00", 2000), 1), ValuesKey("a", "l", 1), TenantKey("a"), WorkKey(1), GarbageKey(1, "g"), LeaseKey("l"), ErasureKey("a"), RulesKey("a"), RuledKey(), AlertmanagerKey("a"),
		SilencesKey("a"), NotificationKey("a", "g", "r", "i", 0), ShareKey(1)} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if k, ok := ParseKey(key); ok && !k.Cut && k.build() != key {
			t.Fatalf("key %q is parsed as %+v, which has the key %q", key, k, k.build())
		}
		if v, kind, part, index, ok := ParseQualifier(key); ok {
			again := qualifier(v, kind, part, index)
			if kind == KindNames || kind == KindSummaries {
				again = qualifier(v, kind, part)
			}
			if again != key {
				t.Fatalf("qualifier %q is parsed as one that is encoded as %q", key, again)
			}
		}
	})
}

// TestRuleGroupQualifier checks which qualifiers are those of groups of rules, and which values are versions.
func TestRuleGroupQualifier(t *testing.T) {
	if n, g, ok := ParseRuleGroupQualifier(RuleGroupQualifier("a/b", "ä")); n != "a/b" || g != "ä" || !ok {
		t.Errorf("%q, %q, %v", n, g, ok)
	}
	for _, bad := range []string{"", "g/", "g/a", "g/a\x00", "g/\x00b", "g/a\x00b\x00c", "v"} {
		if n, g, ok := ParseRuleGroupQualifier(bad); ok {
			t.Errorf("%q is parsed as %q, %q", bad, n, g)
		}
	}
	for _, bad := range []string{"", "v", strings.Repeat("\x00", 15), strings.Repeat("\x00", 16), strings.Repeat("\x01", 17)} {
		if v, err := DecodeRulesVersion([]byte(bad)); err == nil {
			t.Errorf("%q is decoded as %+v", bad, v)
		}
	}
}
