// Who looks at the page. A token that somebody signs in with stays in this tab and goes along with every request: there is no
// cookie that other sites could have sent.

const KEY = "c4-token";
const NAME = "c4-name";
let known = { name: null, via: "nothing", role: null, decides: false };

const kept = (storage, key) => {
  try {
    return globalThis[storage].getItem(key) || "";
  } catch {
    return "";
  }
};
const keep = (storage, key, value) => {
  try {
    if (value) globalThis[storage].setItem(key, value);
    else globalThis[storage].removeItem(key);
  } catch { /* Kept for this page only. */ }
};

let token = kept("sessionStorage", KEY);
export const you = () => known;
export const hasToken = () => token !== "";
export const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

// What somebody is called who need not sign in, as they last said it.
export const yourName = () => kept("localStorage", NAME);
export const rememberName = (name) => keep("localStorage", NAME, name);

export const signIn = (given) => {
  token = given.trim();
  keep("sessionStorage", KEY, token);
};

// Asks the controller who it takes us for.
export const ask = async () => {
  const answer = await fetch("api/page/you", { headers: headers(), cache: "no-store" });
  if (!answer.ok) throw new Error(await answer.text());
  known = await answer.json();
  document.dispatchEvent(new Event("you"));
  return known;
};
