package strictyaml

// maxNearest bounds the names compared, since each costs a table of edits.
const maxNearest = 4096

// Nearest gives the known name with the fewest single-character edits
// (Levenshtein distance) from name, or "" when none is near enough to have been
// meant: more than a third of its letters differ, at least two being allowed.
// Of several as near, the one that begins most like name, then the earlier.
func Nearest(name string, known []string) string {
	if len(name) > 128 {
		return ""
	}
	best, bestEdits := "", max(2, len(name)/3)+1
	nearer := func(k string, e int) bool {
		return e < bestEdits || e == bestEdits && best != "" && prefix(k, name) > prefix(best, name)
	}
	for _, k := range known[:min(len(known), maxNearest)] {
		if diff := len(k) - len(name); diff > bestEdits || -diff > bestEdits {
			continue
		}
		// A short name must keep some letter of the original.
		if e := edits(name, k); nearer(k, e) && e < max(len(name), len(k)) {
			best, bestEdits = k, e
		}
	}
	return best
}

// prefix is how many bytes two strings begin alike.
func prefix(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// edits is the Levenshtein distance of two byte strings.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
