package device

import "strings"

// functionName strips a module ("nft_do_chain [nf_tables]") and a compiler's
// suffix (".isra.0", ".cold") off a symbol. An address that is none prints as a
// number.
func functionName(symbol string) string {
	symbol, _, _ = strings.Cut(symbol, " ")
	symbol, _, _ = strings.Cut(symbol, ".")
	if strings.HasPrefix(symbol, "0x") {
		return ""
	}
	return symbol
}
