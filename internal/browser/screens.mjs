// Every screen and state: axe-core, sideways scrolling, and pictures for people to look at.
import test from 'node:test'
import assert from 'node:assert/strict'
import { axeSource, browser, dashboard, password, person, picture, pin, signIn, totp } from './lib.mjs'

const rules = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22a', 'wcag22aa', 'best-practice']

// looks lists what a browser shows of a state. In Bengali and Indonesian, all states are walked again.
const looks = {
	desk: { width: 1280, colorScheme: 'light' },
	'320': { width: 320, colorScheme: 'light' },
	dark: { width: 1280, colorScheme: 'dark' },
}

async function walk(t, b, preset, locale) {
	const lang = locale.slice(0, 2)
	const found = { states: new Set(), checks: 0, violations: [], incomplete: new Map(), sideways: [] }
	const d = await dashboard(t, preset)
	const p = await person(t, b, d, null, { locale })
	const page = p.page
	await p.context.clock.install() // goes on by itself; secrets.test.mjs waits for the 30 s of a reveal

	const check = async (state, look) => {
		await page.evaluate(axeSource)
		const result = await page.evaluate((tags) => axe.run(document, { runOnly: { type: 'tag', values: tags }, resultTypes: ['violations', 'incomplete'] }), rules)
		found.checks++
		for (const v of result.violations) for (const n of v.nodes) found.violations.push(`${state} ${look}: ${v.id}: ${n.html.slice(0, 160)} ${n.failureSummary.replace(/\s+/g, ' ').slice(0, 200)}`)
		for (const v of result.incomplete) for (const n of v.nodes) {
			const key = `${v.id}: ${n.target.join(' ')}: ${(n.any[0] ?? n.all[0] ?? n.none[0])?.message}`
			found.incomplete.set(key, (found.incomplete.get(key) ?? 0) + 1)
		}
	}
	const at = async (state) => {
		assert.ok(!found.states.has(state), state)
		found.states.add(state)
		assert.equal(await page.evaluate(() => document.documentElement.lang), lang, `${state}: the language`)
		for (const [look, { width, colorScheme }] of Object.entries(looks)) {
			if (lang !== 'en' && look === 'dark') continue
			await page.setViewportSize({ width, height: width === 320 ? 640 : 800 })
			await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
			const wide = await page.evaluate(() => [document.documentElement, document.querySelector('dialog[open]')].filter((e) => e && e.scrollWidth > e.clientWidth).map((e) => {
				const beyond = [...e.querySelectorAll('*')].filter((x) => x.getBoundingClientRect().right > innerWidth).slice(0, 3)
				return `${e.localName} ${e.scrollWidth} > ${e.clientWidth}: ${beyond.map((x) => x.outerHTML.slice(0, 100)).join(' | ')}`
			}))
			if (wide.length) found.sideways.push(`${state} ${look}: ${wide}`)
			if (lang === 'en' || look === 'desk') await check(state, lang === 'en' ? look : lang)
			await picture(page, `${preset}-${state}-${lang === 'en' ? look : lang + '-' + look}`)
		}
		await page.setViewportSize({ width: 1280, height: 800 })
		await page.emulateMedia({ colorScheme: 'light' })
	}
	// Texts differ between languages, so elements are found by what they do.
	const click = (selector) => page.locator(selector).first().click()
	const opened = (screen) => page.locator(`dialog[open] [data-screen=${screen}]`).waitFor()
	const go = async (rest) => page.goto(d.url + rest)
	const cancel = async () => {
		await click('dialog [data-cancel]')
		await page.locator('dialog').waitFor({ state: 'detached' })
	}
	// confirmed answers a challenge if one is put, and shows the states of it.
	const confirmed = async (screen, since, states) => {
		await page.locator(`dialog[open] :is([data-screen=confirm], [data-screen=${screen}])`).waitFor().catch(async () => assert.fail("shown instead: " + await page.locator("dialog").innerText()))
		if (await page.locator('dialog [data-screen=confirm]').count()) {
			const answer = page.locator('dialog #ak-answer')
			await answer.waitFor()
			const right = preset === 'pin' ? pin : preset === 'doku' ? await d.code(since) : password
			if (states) {
				await at(`${states}-confirm`)
				await answer.fill('000000')
				await click('dialog .ak-primary')
				await page.locator('dialog [role=alert]').waitFor()
				await at(`${states}-confirm-wrong`)
			}
			await answer.fill(right)
			await click('dialog .ak-primary')
		}
		await opened(screen)
	}
	const doneIn = async () => {
		if (await page.locator('dialog [data-saved-box]').count()) await page.locator('dialog [data-saved-box]').check()
		await click('dialog [data-done]')
		await page.locator('dialog').waitFor({ state: 'detached' })
		await page.waitForLoadState()
	}
	const first = (status) => page.locator(`tr:has(.ak-is-${status}) th a, li:has(.ak-is-${status}) a`).first()

	await go('')
	await at('signed-out')
	await signIn(page, d, 'admin')

	await go('')
	await at('list')
	await go('?mode=test')
	await at('list-test')
	for (const summary of await page.locator('summary').all()) await summary.click()
	if (await page.locator('summary').count()) await at('list-open')
	if (preset === 'uddoktapay') {
		await go('?name=nothing+has+this+name')
		await at('list-none-found')
		await go('')
		await page.locator('td input[type=checkbox]').nth(0).check()
		await page.locator('td input[type=checkbox]').nth(1).check()
		await click('.ak-bulk button')
		await page.locator('[data-screen=revoke_many]').waitFor()
		await at('revoke-many')
		await page.locator('[name=reason]').first().check()
		await page.locator('#ak-count').fill('7')
		await click('.ak-danger')
		await page.locator('[role=alert]').waitFor()
		await at('revoke-many-wrong')
	}
	if (preset === 'okto') {
		const since = d.mark()
		await go('')
		await click('form[action$="/new"] button')
		await confirmed('secret', since, 'create')
		await at('created')
		await doneIn()
		await at('list-with-secret')
		await click('.ak-facts a')
		await page.locator('[data-screen=key]').waitFor()
		await at('key')
	} else {
		await go('')
		await click('a[data-dialog]')
		await opened('form')
		await at('new')
		await page.locator('#ak-name').fill('x'.repeat(201))
		await page.locator('#ak-expires').fill('2001-01-01')
		await click('dialog .ak-primary')
		await page.locator('dialog .ak-wrong').first().waitFor()
		await at('new-wrong')
		const since = d.mark()
		await page.locator('#ak-name').fill('Kasir \u202e<b>"toko" & co')
		const wrongAgain = page.waitForResponse((r) => r.request().method() === 'POST')
		await click('dialog .ak-primary')
		await (await wrongAgain).finished()
		await page.waitForFunction(() => document.querySelector('dialog #ak-name').defaultValue.startsWith('Kasir'))
		await page.locator('#ak-name').fill('Kasir <b>"toko" & co ' + 'panjang'.repeat(9))
		await page.locator('#ak-expires').fill('2099-12-31')
		if (preset === 'xendit') await page.locator('dialog [value=write]').first().check()
		if (await page.locator('dialog [name=scope]').count()) await page.locator('dialog [name=scope]').first().check()
		await click('dialog .ak-primary')
		await confirmed('secret', since, 'create')
		await at('created')
		await doneIn()
		await page.locator('[data-screen=key]').waitFor()
		await at('key')
	}
	const key = new URL(page.url()).pathname.slice(new URL(d.url).pathname.length)
	if (preset !== 'okto') {
		await click('form[action$="/edit"] button')
		await opened('form')
		await at('edit')
		await cancel()
	}
	await click('form[action$="/regenerate"] button')
	await opened('regenerate')
	await at('regenerate')
	await page.locator('dialog [value=at]').check()
	await page.locator('dialog #ak-at').fill('2001-01-01T10:00')
	if (await page.locator('dialog [name=agree]').count()) await page.locator('dialog [name=agree]').check()
	await page.locator('dialog #ak-overlap').selectOption('24')
	await click('dialog .ak-primary')
	await page.locator('dialog .ak-wrong').first().waitFor()
	await at('regenerate-wrong')
	let since = d.mark()
	await page.locator('dialog #ak-at').fill(new Date(Date.now() + 3 * 864e5).toISOString().slice(0, 16))
	await click('dialog .ak-primary')
	await confirmed('secret', since, preset === 'doku' ? 'regenerate' : '')
	await at('regenerated')
	await doneIn()
	await go(key)
	await at('key-planned')
	if (await page.locator('form[action$="/reveal"]').count()) {
		since = d.mark()
		await click('form[action$="/reveal"] button')
		await confirmed('secret', since, '')
		await at('revealed')
		await p.context.clock.fastForward(30_000)
		await page.waitForFunction(() => document.querySelector('dialog textarea').hidden)
		await at('revealed-hidden')
		await doneIn()
	}
	await go(key)
	await click('form[action$="/suspend"] button')
	await page.locator('.ak-did:not([hidden])').waitFor()
	await at('key-suspended')
	await click('form[action$="/revoke"] button')
	await opened('revoke')
	await at('revoke')
	await page.locator('dialog [value=leaked]').check()
	await click('dialog .ak-danger')
	await page.locator('.ak-head .ak-is-revoked').waitFor()
	await page.locator('dialog').waitFor({ state: 'detached' })
	await at('key-revoked')
	for (const status of ['expired', 'expiring']) {
		await go('')
		if (!await first(status).count()) continue
		await first(status).click()
		await page.locator('[data-screen=key]').waitFor()
		await at(`key-${status}`)
	}

	await go('/log?key=' + key.split('/').pop())
	await click('form[action$="/check"] button')
	await page.locator('.ak-did:not([hidden])').waitFor()
	await at('log-checked')
	await go('/log')
	await at('log')
	await go('/log?person=nobody')
	await at('log-none')
	if (preset === 'doku') {
		await go('/factors')
		await at('factors')
		since = d.mark()
		await click('form[action*="/factors/"] button')
		await confirmed('enroll', since, '')
		await at('enroll')
		const setup = await page.locator('dialog #ak-setup').inputValue()
		await page.locator('dialog #ak-answer').fill('000000')
		await click('dialog .ak-primary')
		await page.locator('dialog [role=alert]').waitFor()
		await at('enroll-wrong')
		await page.locator('dialog #ak-answer').fill(totp(setup))
		await click('dialog .ak-primary')
		await page.locator('.ak-did:not([hidden])').waitFor()
		await at('factors-set-up')
		await go('')
		await first('active').click()
		await click('form[action$="/regenerate"] button')
		await opened('regenerate')
		await page.locator('dialog [name=agree]').check()
		await click('dialog .ak-primary')
		await opened('confirm')
		await at('confirm-choose')
	}
	if (preset === 'uddoktapay') {
		await go('')
		await click('a[data-dialog]')
		await opened('form')
		await page.locator('#ak-name').fill('Kept')
		await p.context.clearCookies()
		await click('dialog .ak-primary')
		await page.locator('dialog .ak-unreached').waitFor()
		await at('new-signed-out')
		await signIn(await p.context.newPage(), d, 'other')
		const answered = page.waitForResponse((r) => r.request().method() === 'POST')
		await click('dialog .ak-primary')
		await answered
		await page.waitForFunction(() => !document.querySelector('dialog .ak-unreached a, dialog button:disabled'))
		await at('new-other-person')
		await signIn(page, d, 'admin')
	}
	await go('/key/none')
	await at('not-found')

	// Forms as pages, as without scripts.
	await page.route('**/page.js', (r) => r.abort())
	await go('')
	await at('list-without-script')
	if (preset !== 'okto') {
		await go('/new')
		await at('new-page')
		await page.locator('#ak-name').fill('Kept')
		await p.context.clearCookies()
		await click('.ak-primary')
		await page.locator('[data-screen=message]').waitFor()
		await at('signed-out-kept')
		await signIn(page, d, 'admin')
	}
	if (await (await go('')) && await first('active').count()) {
		await first('active').click()
		await page.locator('[data-screen=key]').waitFor()
		const active = new URL(page.url()).pathname.slice(new URL(d.url).pathname.length)
		for (const form of ['edit', 'regenerate', 'revoke']) {
			await go(`${active}/${form}`)
			await at(`${form}-page`)
		}
	}
	await page.unroute('**/page.js')

	await signIn(page, d, 'viewer')
	await go('')
	await at('viewer')
	await go('/new')
	await at('not-allowed')
	await signIn(page, d, 'other')
	await go('')
	await at('empty')
	assert.deepEqual(p.faults, [])
	return found
}

// screens tests what each of the five pages shows, in one language.
// screens walks all presets with FULL set, else one.
export function screens(locale, one) {
	for (const preset of process.env.FULL ? ['doku', 'uddoktapay', 'xendit', 'okto', 'pin'] : [one]) {
		test(`screens of ${preset}, ${locale}`, { timeout: 240_000 }, async (t) => {
			const found = await walk(t, await browser(), preset, locale)
			t.diagnostic(`${preset} ${locale}: ${found.states.size} states, ${found.checks} axe runs, ${found.violations.length} violations, ${found.incomplete.size} incomplete, ${found.sideways.length} sideways`)
			for (const [what, n] of found.incomplete) t.diagnostic(`incomplete × ${n}: ${what}`)
			assert.deepEqual({ violations: found.violations, sideways: found.sideways }, { violations: [], sideways: [] })
		})
	}
}
