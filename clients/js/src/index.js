export { healingFetch } from "./healing.js";
export { StreamLost } from "./lost.js";
